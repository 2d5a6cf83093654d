"""A probe: what it says of a collection is what counting in the collection itself gives."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from encoders.basis.files import from_bytes
from flows.imports import ImportRequest, import_vectors
from flows.probe import measure
from storage import bases
from tasks import asking, probe, sampling
from tasks.errors import QueriesUnusable, TooFew
from tasks.imports import Given
from tasks.paths import space_of
from tasks.probe import ProbeAsk
from tasks.progress import quietly
from tasks.sampling import is_held
from tasks.side import SideFeatures
from tasks.targets import target_of
from tests.tasks import drifted
from tests.tasks.drifted import encoded, held, opened

ASK = ProbeAsk("watched", sample=90, families="linear", cascades=(20,))
TOPICS = {row["id"]: row["topic"] for row in drifted.texts(120)}
TEXTS = {row["id"]: row["text"] for row in drifted.texts(120)}


def probed(project, **changes):
    return measure(project, "docs", replace(ASK, **changes), quietly).probed


def watched():
    """What the new encoder was given."""
    from drifting import Watched

    return Watched.seen


def chunks(project, space_id, items):
    """Vectors of these items in a space, an item's together: (matrix, items of the rows)."""
    rows = held(project, space_id)
    keys = [key for item_id in items for key in sorted(rows) if key[0] == item_id]
    return np.array([rows[key]["vector"] for key in keys], np.float32), [key[0] for key in keys]


def natively(project, kind, items):
    """The same by an encoder."""
    rows = held(project, opened(project).head.releases[0].space_id)
    keys = [key for item_id in items for key in sorted(rows) if key[0] == item_id]
    texts = [TEXTS[key[0]][rows[key]["chunk_start"] : rows[key]["chunk_end"]] for key in keys]
    return encoded(kind, texts), [key[0] for key in keys]


def firsts(matrix, owners):
    """The first chunk of every item: what asks where held-out items are the queries."""
    return matrix[[owners.index(item) for item in dict.fromkeys(owners)]]


def found(queries, names, rows, owners):
    """The first ten items of each query by their best chunk, without the item that the query is."""
    scores = (queries @ rows.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(rows, axis=1))
    out = []
    for name, row in zip(names, scores, strict=True):
        best = {}
        for item, score in zip(owners, row, strict=True):
            best[item] = max(best.get(item, -2.0), score)
        best.pop(name, None)
        out.append(sorted(best, key=lambda item: -best[item])[:10])
    return out


def precision(results, names):
    return np.mean([sum(TOPICS[i] == TOPICS[n] for i in r) / 10 for n, r in zip(names, results, strict=True)])


def recall(results, wanted):
    return np.mean([len(set(r) & set(w)) / len(w) for r, w in zip(results, wanted, strict=True)])


def gallery_of(project, sample=90, needed=()):
    """The items that a probe of this sample holds out, in its order."""
    snapshot = opened(project)
    source = target_of(project, snapshot, "watched").source
    ids = sampling.drawn(snapshot, source.space_id, sample, needed)
    return sorted((i for i in ids if i in needed or is_held(i)), key=sampling._draw)


@pytest.mark.parametrize("label", ["topic", None])
def test_the_marks_are_those_of_the_collection(docs, label):
    """Status quo, naive swap and ceiling, counted in the stored rows and in what the encoders give."""
    names = gallery_of(docs)
    old, owners = chunks(docs, opened(docs).head.live.space_id, names)
    new, _ = natively(docs, "New", names)
    ways = {
        "status_quo": found(firsts(old, owners), names, old, owners),
        "naive_swap": found(firsts(new, owners)[:, :24], names, old, owners),
        "ceiling": found(firsts(new, owners), names, new, owners),
    }
    report = probed(docs, label=label)
    for mark, results in ways.items():
        score = precision(results, names) if label else recall(results, ways["ceiling"])
        assert getattr(report, mark) == pytest.approx(score), mark
        low, high = report.intervals[mark]
        assert low <= score <= high
    assert (report.tier, report.metric) == (
        ("label", "precision@10") if label else ("neighbours", "recall@10")
    )
    assert (report.queries, report.gallery) == (len(names), len(old))
    assert report.pairs + report.gallery == sum(
        key[0] in sampling.drawn(opened(docs), opened(docs).head.live.space_id, 90, ())
        for key in held(docs, opened(docs).head.live.space_id)
    )
    assert report.sample == 90
    assert (report.rows, report.items) == (133, 120)


def judged(folder, queries):
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in queries))
    return path


def test_judged_queries_are_asked_as_readers_ask(docs):
    """Each by the encoders themselves; what should be found is in the gallery; unknown ones are counted."""
    asked = [
        {"query": text["text"], "relevant": [f"i{n % 12:03}", f"i{n % 12 + 6:03}", "gone"]}
        for n, text in enumerate(drifted.texts(40, seed=60))
    ]
    path = judged(docs.root, [*asked, {"query": "of nothing", "relevant": ["gone"]}])
    report = probed(docs, queries=path, sample=90)
    wanted = [q["relevant"][:2] for q in asked]
    names = gallery_of(docs, 90, {i for pair in wanted for i in pair})
    assert {i for pair in wanted for i in pair} <= set(names)
    texts = [q["query"] for q in asked]
    old, owners = chunks(docs, opened(docs).head.live.space_id, names)
    new, _ = natively(docs, "New", names)
    nobody = [None] * len(texts)
    assert report.status_quo == pytest.approx(
        recall(found(encoded("Old", texts), nobody, old, owners), wanted)
    )
    assert report.ceiling == pytest.approx(recall(found(encoded("New", texts), nobody, new, owners), wanted))
    assert (report.tier, report.queries, report.queries_unknown) == ("judged", 40, 1)


def test_the_status_quo_is_of_what_is_live(carried, copied):
    """Where maps are live readers ask with native queries and meet maps; by a bridge they meet old rows."""
    for strategy in ("map", "bridge"):
        project = copied(carried(strategy))
        live = opened(project).head.live
        names = gallery_of_newer(project)
        native, owners = natively(project, "New", names)
        served, _ = chunks(project, live.space_id, names)
        asked = firsts(native, owners)
        if strategy == "bridge":
            by = opened(project).head.release(live.through)
            basis = from_bytes(bases.read(opened(project).root, live.basis))
            asked = basis.apply(asked, space=space_of(by), direction="queries")
        report = probed(project, to="newer", label="topic")
        expected = precision(found(asked, names, served, owners), names)
        assert report.status_quo == pytest.approx(expected), strategy
        assert report.from_space == live.space_id
        new, _ = natively(project, "Newer", names)
        expected = precision(found(firsts(new, owners), names, new, owners), names)
        assert report.ceiling == pytest.approx(expected)
        import shutil

        shutil.rmtree(project.root)


def gallery_of_newer(project):
    snapshot = opened(project)
    source = target_of(project, snapshot, "newer").source
    ids = sampling.drawn(snapshot, source.space_id, 90, ())
    return sorted(filter(is_held, ids), key=sampling._draw)


def test_a_probe_changes_nothing_and_is_cheap_the_second_time(docs):
    """No version, no row; what was encoded lies in the spool, from where the next takes it."""
    version = opened(docs).version
    watched().clear()
    first = probed(docs, label="topic")
    seen = set(watched())
    assert len(seen) >= 90
    watched().clear()
    second = probed(docs, label="topic")
    assert len(set(watched()) & seen) <= 64  # some, to time it
    assert opened(docs).version == version
    same = (
        "status_quo",
        "naive_swap",
        "ceiling",
        "pairs",
        "gallery",
        "families",
        "pair_curve",
        "calibrators",
    )
    strip = {"families": lambda fs: [replace(f, seconds=0.0) for f in fs]}
    for name in same:
        a, b = (strip.get(name, lambda v: v)(getattr(one, name)) for one in (first, second))
        assert a == b, name


def test_what_is_held_out_moves_no_basis(docs):
    """Other vectors of the held-out items give the same bases; other ones of the pairs do not."""
    project, snapshot = docs, opened(docs)
    target = target_of(project, snapshot, "watched")
    judged_by = asking.asked_of(project, snapshot, None, None)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ids = sampling.drawn(snapshot, target.source.space_id, 90, ())
        job = probe.job_of(project, snapshot, target.source, target.spec, target.facts)
        native = probe.natively(project, snapshot, job, target.source.chunking_id, ids, folder, quietly)
        old = sampling.stored(snapshot, target.source, ids)
        sample = sampling.joined(old, old, native, ())
        side = SideFeatures(project, target.release, target.spec, target.facts, folder)

        def bases_of(sample):
            trial, _ = probe._trial(project, snapshot, target, sample, judged_by, side, folder)
            tried = [trial.tried(f, d, with_side=False) for d in ("rows", "queries") for f in FAMILIES]
            return [t.basis.basis_id for t in tried]

        noise = np.random.default_rng(0).standard_normal(sample.new.shape).astype(np.float32)
        held_rows = sample.held[sample.item_of][:, None]
        before = bases_of(sample)
        assert bases_of(replace(sample, new=np.where(held_rows, noise, sample.new))) == before
        assert bases_of(replace(sample, old=np.where(held_rows, -sample.old, sample.old))) == before
        after = bases_of(replace(sample, new=np.where(held_rows, sample.new, noise)))
        assert not set(after) & set(before)


FAMILIES = ("procrustes", "centred-procrustes", "ridge", "relative")


def test_the_same_vectors_by_another_name_are_reused(docs):
    """Nothing is fitted: old rows, new rows and any mix are alike."""
    report = probed(docs, to="same", label="topic")
    assert [(o.strategy, o.passes, o.cost.encode_rows) for o in report.options] == [("reuse", True, 0)]
    assert report.verdict.strategy == "reuse"
    assert report.status_quo == report.naive_swap == report.ceiling
    ids = sampling.drawn(opened(docs), opened(docs).head.live.space_id, 90, ())
    names = sorted(filter(is_held, ids), key=sampling._draw)
    old, owners = chunks(docs, opened(docs).head.live.space_id, names)
    assert report.ceiling == pytest.approx(precision(found(firsts(old, owners), names, old, owners), names))


def test_vectors_of_an_encoder_that_is_gone_can_be_carried_over(docs, tmp_path):
    """They are queries themselves; no bridge is offered: nothing new could be encoded into their space."""
    settings = drifted.YAML[: drifted.YAML.index("    source:")] + "    modality: text\n"
    project = drifted.project_in(tmp_path / "other", [], settings)
    rows = held(docs, opened(docs).head.live.space_id)
    path = project.root / "made.parquet"
    made = [{"id": i, "text": TEXTS[i], "vector": row["vector"]} for (i, n), row in rows.items() if n == 0]
    pq.write_table(pa.Table.from_pylist(made), path)
    given = Given(path, id="id", vector="vector", text="text", space="elsewhere")
    import_vectors(project, ImportRequest("docs", given), quietly)
    report = probed(project)
    assert {o.strategy for o in report.options} == {"map", "reencode"}
    assert any("no bridge is offered" in note for note in report.notes)
    names = gallery_of(project)
    old, owners = chunks(project, opened(project).head.live.space_id, names)
    new = encoded("New", [TEXTS[name] for name in owners])
    wanted = found(firsts(new, owners), names, new, owners)
    expected = recall(found(firsts(old, owners), names, old, owners), wanted)
    assert report.status_quo == pytest.approx(expected)
    release = drifted.build(project, "map", to="watched")
    assert {row["origin"] for row in held(project, release.space_id).values()} == {"encoded", "mapped"}


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        ({"sample": 20}, TooFew, "are too few to conclude anything"),
        ({"label": "item_id"}, TooFew, "0 queries"),
        ({"label": "'same'"}, QueriesUnusable, "All items have the same"),
        ({"label": "NULL"}, QueriesUnusable, "No item has one"),
    ],
)
def test_what_cannot_be_measured_is_refused(docs, ask, error, told):
    """With what there is, and what would be enough."""
    with pytest.raises(error, match=told):
        probed(docs, **ask)


def test_queries_whose_answers_are_all_maps_are_too_few(carried, copied):
    """Nothing was ever encoded of them by the encoder that is mapped from: they are in no gallery."""
    project = copied(carried("map"))
    few = [n for n in range(40)]
    path = judged(project.root, [{"query": TEXTS[f"i{n:03}"], "relevant": ["i001"]} for n in few])
    with pytest.raises(TooFew):
        probed(project, to="newer", queries=path, sample=1)
    with pytest.raises(TooFew):
        probed(project, to="newer", label="item_id")


def test_one_measure_at_a_time(docs):
    """Judged queries or a label; and queries that name nothing of the collection measure nothing."""
    path = judged(docs.root, [{"query": "x", "relevant": ["gone"]}])
    with pytest.raises(QueriesUnusable, match="not both"):
        probed(docs, queries=path, label="topic")
    with pytest.raises(QueriesUnusable, match="none of the 1 queries"):
        probed(docs, queries=path)
