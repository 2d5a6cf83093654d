"""A trial: bases fitted on some items and measured on others, beside what would be without them."""

import numpy as np
import pytest

from encoders.basis import measure
from encoders.basis.measure import Truth
from encoders.basis.spec import Space
from tasks import trial as trial_module
from tasks.progress import quietly
from tasks.trial import SHARES, Arrays, Held, Trial
from tests.encoders.basis.made import clustered, rotation, space, unit

OLD, NEW = space("old", 12), space("new", 20)
RNG = np.random.default_rng(7)


def vectors(rows, seed=0, noise=0.3):
    """Old and new vectors of some chunks, that a linear map with some noise leads from and to."""
    new = clustered(rows, NEW.dim, seed)
    drift = rotation(NEW.dim)[:, : OLD.dim]
    return Arrays(unit(new @ drift + noise * clustered(rows, OLD.dim, seed + 1)), new, None)


def chunked(items, seed=3):
    """How many chunks each item has, and where they begin."""
    lengths = np.random.default_rng(seed).integers(1, 4, items)
    return lengths, np.cumsum(lengths) - lengths


def made(items=60, rows=20_000, *, recall=True, noise=0.3, served=None, asked=True):
    """A trial on items of one to three chunks, whose queries are their first chunks."""
    lengths, first = chunked(items)
    gallery = vectors(int(lengths.sum()), seed=11, noise=noise)
    own = np.arange(items)
    if recall:
        scores = measure.best_of_items(measure.cosines(gallery.new[first], gallery.new), first)
        truth = measure.neighbours(scores, own)
    else:
        labels = np.array([f"l{n % 4}" for n in range(items)], dtype=object)
        truth = measure.same_label(labels, labels, own)
    held_vectors = gallery.old if served is None else served
    ask_served = held_vectors[first] if asked else None
    held = Held(gallery, held_vectors, first, ask_served, gallery.new[first], truth)
    return Trial(vectors(300), held, OLD, NEW, "", rows)


def by_hand(trial, queries, rows, only=None):
    """The score of every query, by loops: items by their best chunk, without the query's own item."""
    held = trial.held
    ends = [*held.first[1:], len(rows)]
    out = []
    for at, query in enumerate(queries):
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        cosines = np.divide(rows @ query, norms, out=np.zeros(len(rows)), where=norms > 0)
        best = {}
        for item, (a, b) in enumerate(zip(held.first, ends, strict=True)):
            there = [row for row in range(a, b) if only is None or row in only[at]]
            if item != held.truth.own[at] and there:
                best[item] = max(cosines[row] for row in there)
        ten = sorted(best, key=lambda item: -best[item])[:10]
        hits = sum(held.truth.relevant[at, item] for item in ten)
        most = min(10, held.truth.relevant[at].sum()) if held.truth.recall else 10
        out.append(hits / most)
    return np.array(out)


@pytest.mark.parametrize("recall", [True, False])
def test_marks_are_what_they_say(recall):
    """Status quo: old query, old rows. Naive swap: new query, old rows. Ceiling: new query, new rows."""
    trial = made(recall=recall)
    held = trial.held
    np.testing.assert_allclose(trial.status_quo, by_hand(trial, held.ask_served, held.served))
    np.testing.assert_allclose(trial.ceiling, by_hand(trial, held.ask_new, held.gallery.new))
    swapped = by_hand(trial, held.ask_new[:, : OLD.dim], held.served)
    np.testing.assert_allclose(trial.naive_swap, swapped)
    if recall:
        assert (trial.ceiling == 1).all()
        assert trial.naive_swap.mean() < trial.status_quo.mean() < 1


def test_the_status_quo_is_of_what_readers_get():
    """Not of the rows that a basis maps from, where others are live; nothing where nobody can ask."""
    trial = made(served=clustered(int(chunked(60)[0].sum()), 16, seed=5))
    np.testing.assert_allclose(trial.status_quo, by_hand(trial, trial.held.ask_served, trial.held.served))
    silent = made(asked=False)
    assert silent.served is None
    assert (silent.status_quo == 0).all()
    assert silent.naive_swap.mean() > 0


@pytest.mark.parametrize(("direction", "family"), [("rows", "ridge"), ("queries", "procrustes")])
def test_bases_are_scored_in_their_own_direction(direction, family):
    """Mapped rows meet new queries, mapped queries meet old rows; other rows than it was fitted on."""
    trial = made()
    found = trial.tried(family, direction, with_side=False)
    gallery, held = trial.held.gallery, trial.held
    if direction == "rows":
        asked, rows = held.ask_new, found.basis.apply(gallery.old, space=OLD, direction="rows")
    else:
        asked, rows = found.basis.apply(held.ask_new, space=NEW, direction="queries"), gallery.old
    np.testing.assert_allclose(found.scores, by_hand(trial, asked, rows))
    assert found.basis.pairs == len(trial.pairs.old)
    spaces = (found.basis.source, found.basis.target)
    assert spaces == ((OLD, NEW) if direction == "rows" else (NEW, OLD))
    assert found.scores.mean() > trial.naive_swap.mean()


def test_what_is_held_out_moves_no_basis():
    """Whatever the gallery holds: the bases of every family are those of the pairs alone."""
    one, other = made(noise=0.3), made(noise=3.0)
    assert not np.array_equal(one.held.gallery.old, other.held.gallery.old)
    for direction in ("rows", "queries"):
        for family in ("procrustes", "ridge", "low-rank"):
            a, b = (t.tried(family, direction, with_side=False) for t in (one, other))
            assert a.basis.basis_id == b.basis.basis_id
            assert not np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("cascade", [12, 30, 10_000])
def test_a_cascade_ranks_the_first_rows_by_their_native_vectors(cascade):
    """As deep in the gallery as it would be in a collection so much larger; all rows if they are that few."""
    trial = made(rows=400)
    basis = trial.tried("ridge", "rows", with_side=False).basis
    count = len(trial.held.gallery.old)
    depth = min(count, max(10, round(cascade * (count / 400) ** 0.5)))
    assert trial.depth(cascade) == depth
    mapped = basis.apply(trial.held.gallery.old, space=OLD, direction="rows")
    only = [
        set(np.argsort(-(mapped @ query), kind="stable")[:depth].tolist()) for query in trial.held.ask_new
    ]
    expected = by_hand(trial, trial.held.ask_new, trial.held.gallery.new, only)
    np.testing.assert_allclose(trial.cascaded(basis, cascade), expected)
    if depth == count:
        np.testing.assert_array_equal(trial.cascaded(basis, cascade), trial.ceiling)


def test_a_cascade_is_as_deep_as_the_collection_asks():
    """Never deeper than the gallery, never less than ten; of a small collection as deep as it says."""
    small, large = made(rows=50), made(rows=10**9)
    assert small.depth(50) == 50
    assert large.depth(50) == 10
    assert small.depth(10**6) == len(small.held.gallery.old)


def test_every_family_that_can_is_tried():
    """In its own directions and with side features where it takes some; what cannot be fitted is left out."""
    trial = made()
    names = ["mean-shift", "procrustes", "ridge", "low-rank"]
    assert [t.basis.family for t in trial.families(names, ["rows"], quietly)] == names[1:]  # the dims differ
    side = RNG.standard_normal((300, 5)).astype(np.float32)
    beside = RNG.standard_normal((len(trial.held.gallery.old), 5)).astype(np.float32)
    pairs = Arrays(trial.pairs.old, trial.pairs.new, side)
    gallery = Arrays(trial.held.gallery.old, trial.held.gallery.new, beside)
    held = Held(gallery, *list(vars(trial.held).values())[1:])
    sided = Trial(pairs, held, OLD, NEW, "features", 500)
    found = [(t.basis.family, t.with_side) for t in sided.families(names, ["rows"], quietly)]
    assert found == [
        ("procrustes", False), ("ridge", False), ("ridge", True), ("low-rank", False), ("low-rank", True),
    ]  # fmt: skip
    assert not any(t.with_side for t in sided.families(names, ["queries"], quietly))
    few = Trial(vectors(20), trial.held, OLD, NEW, "", 500)
    assert [t.basis.family for t in few.families(names, ["rows"], quietly)] == ["procrustes", "ridge"]


def test_fewer_pairs_make_a_curve(monkeypatch):
    """Each point is the family on the first so many pairs; the last is what was chosen."""
    monkeypatch.setattr(trial_module, "_CURVE", (50, 100, 300, 900))
    trial = made()
    chosen = trial.tried("ridge", "rows", with_side=False)
    curve = trial.pair_curve(chosen)
    assert [pairs for pairs, _ in curve] == [50, 100, 300]
    assert curve[-1][1] is chosen.scores
    small = Trial(trial.pairs.at(np.arange(100)), trial.held, OLD, NEW, "", 500)
    np.testing.assert_array_equal(curve[1][1], small.tried("ridge", "rows", with_side=False).scores)


def test_a_mix_of_maps_and_native_rows_ends_where_all_are_native():
    """It begins at the map alone; what is in between is measured, worst maps first or in any order."""
    trial = made()
    found = trial.tried("ridge", "rows", with_side=False)
    mixed = trial.mixed(found.basis)
    assert set(mixed.curves) == {"random", "residual"}
    for curve in mixed.curves.values():
        assert len(curve) == len(SHARES)
        assert curve[0] == pytest.approx(found.scores.mean())
        assert curve[-1] == pytest.approx(trial.ceiling.mean())
    residuals = found.basis.residuals(trial.held.gallery.old)
    worst = np.argsort(-residuals, kind="stable")[: round(0.5 * len(residuals))]
    half = found.basis.apply(trial.held.gallery.old, space=OLD, direction="rows")
    half[worst] = trial.held.gallery.new[worst]
    at = SHARES.index(0.5)
    expected = by_hand(trial, trial.held.ask_new, half).mean()
    assert mixed.curves["residual"][at] == pytest.approx(expected)


def test_rows_of_two_spaces_have_no_curve_of_raw_scores():
    """A bridge's own rows and native ones are never in one ranking without calibrators."""
    trial = made()
    mixed = trial.mixed(trial.tried("procrustes", "queries", with_side=False).basis)
    assert mixed.curves == {}
    assert set(mixed.calibrations) <= {"bridged", "encoded"}


def shifted(seed=0):
    """Maps whose cosines are all near one, so that raw scores bury every native row among them."""
    items = 80
    new = clustered(items, NEW.dim, seed)
    own = np.arange(items)
    truth = measure.neighbours(measure.cosines(new, new), own)
    flat = unit(0.15 * vectors(items, seed, noise=0.8).old + 1.0)
    held = Held(Arrays(flat, new, None), flat, own, flat, new, truth)
    pairs = vectors(300)
    return Trial(Arrays(unit(0.15 * pairs.old + 1.0), pairs.new, None), held, OLD, NEW, "", 500)


def test_calibrators_come_where_they_help():
    """Of each origin, monotone, from cosines to shares; and none where raw scores rank as well."""
    helped = shifted()
    basis = helped.tried("procrustes", "rows", with_side=False).basis
    found = helped.mixed(basis).calibrations
    assert set(found) == {"mapped", "encoded"}
    for calibration in found.values():
        assert (np.diff(calibration.scores) > 0).all()
        assert (np.diff(calibration.relevance) >= 0).all()
        assert 0 <= calibration.relevance[0] < calibration.relevance[-1] <= 1
    exact = made(noise=0.0)
    same = Trial(
        Arrays(exact.pairs.new, exact.pairs.new, None),
        Held(
            Arrays(exact.held.gallery.new, exact.held.gallery.new, None),
            exact.held.gallery.new, exact.held.first, exact.held.ask_new, exact.held.ask_new,
            exact.held.truth,
        ),
        Space("same", "s" * 64, NEW.dim), NEW, "", 500,
    )  # fmt: skip
    basis = same.tried("procrustes", "rows", with_side=False).basis
    assert same.mixed(basis).calibrations == {}


def test_a_query_is_not_what_it_is_calibrated_by():
    """Its own item counts neither as a hit nor as a miss, nor do all but the first fifty rows."""
    trial = shifted()
    own = trial.held.truth.own
    every = np.ones(len(own), bool)
    found = trial._isotonic(trial.native, every)
    blind = trial.native.copy()
    blind[np.arange(len(own)), own] = -np.inf
    assert found == trial._isotonic(blind, every)
    assert max(found.scores) < 0.99
    truth = Truth(trial.held.truth.relevant, np.full(len(own), -1), recall=True)
    held = Held(**{**vars(trial.held), "truth": truth})
    seen = Trial(trial.pairs, held, OLD, NEW, "", 500)
    assert max(seen._isotonic(trial.native, every).scores) > 0.999
