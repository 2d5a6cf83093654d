"""Fitting: what every family promises, and what none accepts."""

import numpy as np
import pytest

from encoders.basis.files import to_bytes
from encoders.basis.fit import FAMILIES, fit
from encoders.errors import BasisMismatch, BasisUnfit
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, rotation, space, unit

PAIRS = 400
SOURCES = clustered(PAIRS, 16)
TARGETS = unit(SOURCES @ rotation(16) + 0.05 * clustered(PAIRS, 16, seed=3))
SIDE = clustered(PAIRS, 5, seed=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns(family: str):
    """Each maps its own pairs closer to their targets than they were, onto unit vectors."""
    found = mapped(fitted(family, SOURCES, TARGETS), SOURCES)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(found, TARGETS).mean() > cosines(SOURCES, TARGETS).mean() + 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_pairs_and_seed_give_the_same_basis(family: str):
    """A fit can be repeated, byte for byte."""
    settings = {"side": SIDE, "side_fingerprint": "s"} if FAMILIES[family].takes_side else {}
    first, again = (fitted(family, SOURCES, TARGETS, seed=3, **settings) for _ in range(2))
    assert first.basis_id == again.basis_id
    assert to_bytes(first) == to_bytes(again)


def test_predicted_residuals_find_the_hard_rows():
    """Where the error depends on the vector, the prediction ranks new rows by it, in its own size."""
    vectors = clustered(3000, 16)
    noise = np.random.default_rng(5).standard_normal((3000, 16))
    hard = np.exp(3 * vectors[:, :1])
    targets = unit(vectors @ rotation(16) + 0.1 * hard * noise)
    made = fitted("procrustes", vectors[:2000], targets[:2000])
    errors = 1 - cosines(mapped(made, vectors[2000:]), targets[2000:])
    predicted = made.residuals(vectors[2000:])
    ranks = np.corrcoef(errors.argsort().argsort(), predicted.argsort().argsort())[0, 1]
    assert ranks > 0.4
    assert made.metrics["residual_spearman"] == pytest.approx(ranks, abs=0.15)
    assert 0.4 < predicted.mean() / errors.mean() < 1.5


def test_few_pairs_predict_the_mean_residual():
    """Too few pairs to tell rows apart: every row gets the typical error."""
    made = fitted("procrustes", SOURCES[:40], TARGETS[:40])
    assert made.metrics["residual_spearman"] == 0
    assert np.ptp(made.residuals(SOURCES)) == 0


def _spoilt(array: np.ndarray, value: float) -> np.ndarray:
    spoilt = array.copy()
    spoilt[[3, 8]] = value
    return spoilt


@pytest.mark.parametrize(
    ("sources", "targets", "says"),
    [
        (SOURCES[:9], TARGETS[:9], r"9 pairs; at least 16 are needed: raise --sample"),
        (np.tile(SOURCES[:9], (5, 1)), np.tile(TARGETS[:9], (5, 1)), r"9 pairs, 45 with repetitions"),
        (_spoilt(SOURCES, np.nan), TARGETS, "2 of 400 sources have numbers that are NaN"),
        (SOURCES, _spoilt(TARGETS, np.inf), "2 of 400 targets have numbers that are NaN or infinite"),
        (_spoilt(SOURCES, 0), TARGETS, "2 of 400 sources are zero"),
        (SOURCES[0] + 1e-5 * SOURCES, TARGETS, "all 400 sources are nearly the same vector"),
        (SOURCES, TARGETS[:1] + 1e-5 * TARGETS, "all 400 targets are nearly the same vector"),
        (SOURCES, TARGETS[:300], "400 sources and 300 targets"),
        (SOURCES, TARGETS[0], r"targets have shape \(16,\)"),
    ],
    ids=range(9),
)
def test_pairs_that_teach_nothing_are_refused(sources: np.ndarray, targets: np.ndarray, says: str):
    """The error says what was found, and how many are needed."""
    with pytest.raises(BasisUnfit, match=says):
        fit(
            "procrustes",
            sources,
            targets,
            source=space("new", 16),
            target=space("old", 16),
            direction="queries",
        )


@pytest.mark.parametrize(
    ("family", "settings", "error", "says"),
    [
        ("magic", {}, BasisUnfit, "no family 'magic'; there are mean-shift, procrustes"),
        ("bt2-head", {"direction": "rows"}, BasisUnfit, "carries queries only, not rows"),
        ("mean-shift", {"target": space("old", 8)}, BasisUnfit, "equal dims.*old_8.*use another"),
        ("procrustes", {"side": SIDE, "side_fingerprint": "s"}, BasisUnfit, "use one of low-rank"),
        ("ridge", {"side": SIDE}, BasisUnfit, "together with the fingerprint"),
        ("ridge", {"side_fingerprint": "s"}, BasisUnfit, "together with the fingerprint"),
        ("ridge", {"side": SIDE[:30], "side_fingerprint": "s"}, BasisUnfit, "400 sources and 30 side"),
        ("ridge", {"source": space("new", 12)}, BasisMismatch, "sources have 16 dims.*new_12"),
    ],
)
def test_what_a_family_cannot_do_is_refused(family: str, settings: dict, error: type, says: str):
    """Before anything is fitted."""
    given = {"source": space("new", 16), "target": space("old", 16), "direction": "queries", **settings}
    with pytest.raises(error, match=says):
        fit(family, SOURCES, TARGETS, **given)


def test_families_are_in_the_order_of_simplicity():
    """Linear ones come first; their number of parameters never falls within a kind."""
    linear = [family.linear for family in FAMILIES.values()]
    assert linear == sorted(linear, reverse=True)
    assert all(family.name == name for name, family in FAMILIES.items())
