"""Calibration: a share of relevant hits for every score, never less for a higher one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis import calibrate


def by_hand(scores: np.ndarray, relevant: np.ndarray) -> dict[float, float]:
    """Isotonic regression by its definition: the largest over all lower ends of the least mean upwards."""
    levels = np.unique(scores)
    hits = [relevant[scores == level] for level in levels]

    def mean(a: int, b: int) -> float:
        return float(np.concatenate(hits[a : b + 1]).mean())

    count = len(levels)
    return {
        float(level): max(min(mean(a, b) for b in range(at, count)) for a in range(at + 1))
        for at, level in enumerate(levels)
    }


@settings(deadline=None, max_examples=50)
@given(levels=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_it_is_the_isotonic_regression(levels: int, seed: int):
    """At every score that was seen, equal scores taken together whatever order they came in."""
    rng = np.random.default_rng(seed)
    scores = rng.choice(rng.standard_normal(levels), 80).astype(np.float32)
    relevant = rng.random(80) < 0.4
    made = calibrate.fit(scores, relevant)
    if made is None:
        assert len(np.unique(scores)) < 2
        return
    expected = by_hand(scores, relevant)
    knots = np.array(made.scores)
    np.testing.assert_allclose(made.apply(knots), [expected[s] for s in made.scores], atol=1e-9)
    turned = calibrate.fit(scores[::-1], relevant[::-1])
    assert turned == made


@settings(deadline=None, max_examples=50)
@given(rows=st.integers(50, 400), seed=st.integers(0, 10_000), slope=st.floats(-3, 3))
def test_a_higher_score_is_never_less_relevant(rows: int, seed: int, slope: float):
    """Also where hits get rarer with the score; shares stay shares, beyond the ends too."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal(rows).astype(np.float32)
    relevant = rng.random(rows) < 1 / (1 + np.exp(-slope * scores))
    made = calibrate.fit(scores, relevant)
    if made is None:
        assert relevant.all() or not relevant.any()
        return
    shares = made.apply(np.sort(np.append(rng.standard_normal(500), [-1e9, 1e9])))
    assert (np.diff(shares) >= 0).all()
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert len(made.scores) == len(made.relevance) <= 33


def test_shares_are_near_the_true_ones():
    """Of 20,000 hits whose relevance is known to be their score."""
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    made = calibrate.fit(scores, rng.random(20_000) < scores)
    at = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(made.apply(at), at, atol=0.06)


@pytest.mark.parametrize(
    ("scores", "relevant"),
    [
        (np.arange(49.0), np.arange(49) > 9),
        (np.arange(60.0), np.ones(60, bool)),
        (np.arange(60.0), np.zeros(60, bool)),
        (np.ones(60), np.arange(60) > 9),
    ],
    ids=["few", "all", "none", "alike"],
)
def test_nothing_is_calibrated_by_what_says_nothing(scores: np.ndarray, relevant: np.ndarray):
    """Too few hits, all of one kind, or of one score."""
    assert calibrate.fit(scores, relevant) is None
