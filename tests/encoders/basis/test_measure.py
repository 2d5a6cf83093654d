"""Retrieval as it is measured: against counting by hand, for ties, few items and many chunks too."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis import measure
from encoders.basis.measure import Bootstrap, Truth
from tests.encoders.basis.made import clustered


def ranked(scores: np.ndarray, own: int) -> list[int]:
    """Items of one query by hand: best first, equal ones in their order, without itself and what is out."""
    there = [at for at in range(len(scores)) if at != own and scores[at] > -np.inf]
    return sorted(there, key=lambda at: (-scores[at], at))[:10]


def found(similarities: np.ndarray, truth: Truth) -> list[float]:
    """Precision or recall at ten of each query, by hand."""
    out = []
    for scores, relevant, own in zip(similarities, truth.relevant, truth.own, strict=True):
        most = min(10, max(1, int(relevant.sum()))) if truth.recall else 10
        out.append(sum(bool(relevant[at]) for at in ranked(scores, int(own))) / most)
    return out


def drawn(rng: np.random.Generator, queries: int, items: int) -> np.ndarray:
    """Scores of few values, so that many are equal; some items are not in the result at all."""
    scores = rng.integers(0, 4, (queries, items)).astype(np.float32) / 4
    scores[rng.random((queries, items)) < 0.2] = -np.inf
    return scores


SHAPES = {"queries": st.integers(1, 6), "items": st.integers(1, 40), "seed": st.integers(0, 10_000)}


@settings(deadline=None)
@given(**SHAPES, recall=st.booleans())
def test_scores_are_what_counting_by_hand_gives(queries: int, items: int, seed: int, recall: bool):
    """Precision and recall at ten; a query does not find itself; ties go by the order of the items."""
    rng = np.random.default_rng(seed)
    own = rng.integers(-1, items, queries)
    truth = Truth(rng.random((queries, items)) < 0.3, own, recall)
    scores = drawn(rng, queries, items)
    np.testing.assert_allclose(truth.score(scores), found(scores, truth))


@settings(deadline=None)
@given(**SHAPES)
def test_what_is_near_by_some_scores_is_found_by_them(queries: int, items: int, seed: int):
    """The neighbours by a ranking have a recall of one in it, however few items there are."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, items, queries)
    scores = rng.integers(0, 4, (queries, items)).astype(np.float32)
    truth = measure.neighbours(scores, own)
    assert not truth.relevant[np.arange(queries), own].any()
    others = min(10, items - 1)
    np.testing.assert_array_equal(truth.relevant.sum(axis=1), others)
    np.testing.assert_array_equal(truth.score(scores), float(others > 0))


def test_items_of_one_label_answer_each_other():
    """Precision counts those among the ten that are there; recall of judged items what could be found."""
    labels = np.array(["a", "a", "b", "b"], dtype=object)
    truth = measure.same_label(labels[:2], labels, np.array([0, 1]))
    scores = np.array([[1, 0.9, 0.1, 0], [0, 0, 1, 0.5]])
    np.testing.assert_allclose(truth.score(scores), [0.1, 0.1])
    judged = measure.judged([np.array([1]), np.array([0, 3])], 4)
    np.testing.assert_allclose(judged.score(np.where(scores > 0.2, scores, -np.inf)), [1.0, 0.5])


@settings(deadline=None)
@given(items=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_an_item_ranks_by_its_best_chunk(items: int, seed: int):
    """Whatever the number of its chunks."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, items)
    scores = rng.standard_normal((3, lengths.sum())).astype(np.float32)
    first = np.cumsum(lengths) - lengths
    parts = np.split(scores, first[1:], axis=1)
    expected = np.stack([part.max(axis=1) for part in parts], axis=1)
    np.testing.assert_array_equal(measure.best_of_items(scores, first), expected)


@settings(deadline=None)
@given(**SHAPES, depth=st.integers(1, 50))
def test_a_cascade_ranks_the_first_by_the_other_scores(queries: int, items: int, seed: int, depth: int):
    """Those that the recall ranks first keep their native score, all others are out."""
    rng = np.random.default_rng(seed)
    recall, native = drawn(rng, queries, items), rng.standard_normal((queries, items)).astype(np.float32)
    got = measure.cascaded(recall, native, depth)
    for row in range(queries):
        chosen = sorted(range(items), key=lambda at: (-recall[row, at], at))[:depth]
        expected = np.full(items, -np.inf, np.float32)
        expected[chosen] = native[row, chosen]
        np.testing.assert_array_equal(got[row], expected)


def test_cosines_are_those_of_unit_vectors():
    """Lengths do not matter, and a zero vector is near to nothing."""
    queries, rows = clustered(5, 8), clustered(7, 8, seed=1)
    stretched = rows * np.arange(1, 8, dtype=np.float32)[:, None]
    np.testing.assert_allclose(measure.cosines(3 * queries, stretched), queries @ rows.T, atol=1e-6)
    assert (measure.cosines(queries, np.zeros((2, 8), np.float32)) == 0).all()


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Of 200 samples of 150 queries, some 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(3)
    bootstrap = Bootstrap(150)
    held = 0
    for _ in range(200):
        low, high = bootstrap.interval((rng.random(150) < 0.3).astype(np.float64))
        held += low <= 0.3 <= high
    assert 180 <= held <= 198


def test_differences_are_of_the_same_resamples():
    """Two ways that always differ by as much differ by that with certainty, however wide each is alone."""
    values = np.random.default_rng(4).random(80)
    bootstrap = Bootstrap(80)
    low, high = bootstrap.interval(values)
    assert high - low > 0.05
    assert bootstrap.interval(values + 0.25 - values) == pytest.approx((0.25, 0.25))
    assert Bootstrap(80).interval(values) == (low, high)
    assert Bootstrap(80, seed=1).interval(values) != (low, high)


@pytest.mark.parametrize(
    ("score", "quo", "ceiling", "closed"),
    [(0.3, 0.2, 0.4, 0.5), (0.1, 0.2, 0.4, -0.5), (0.3, 0.4, 0.4, None), (0.3, 0.4, 0.2, None)],
)
def test_the_gap_that_is_closed(score: float, quo: float, ceiling: float, closed: float | None):
    """Between the status quo and the ceiling; nothing where the ceiling is no better."""
    found = measure.gap_closed(score, quo, ceiling)
    assert found == (None if closed is None else pytest.approx(closed))
