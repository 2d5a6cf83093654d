"""Maps by regression: exact where they can be, never worse than the mean, penalties as defined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.pairs import checked
from encoders.basis.regression import ridge
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, rotation, unit

RNG = np.random.default_rng(0)


@settings(max_examples=20, deadline=None)
@given(dim=st.integers(2, 30), seed=st.integers(0, 1000))
def test_a_shift_is_recovered(dim: int, seed: int):
    """The difference of the means is all that a mean shift has, and is exact where it is all there is."""
    targets = clustered(60, dim, seed)
    shift = np.random.default_rng(seed).standard_normal(dim)
    made = fitted("mean-shift", targets - shift, targets)
    np.testing.assert_allclose(made.tensors["offset"], shift, atol=1e-5)
    np.testing.assert_allclose(mapped(made, targets - shift), targets, atol=1e-5)


@pytest.mark.parametrize("family", ["ridge", "low-rank", "lambda-orthogonal", "relative"])
@pytest.mark.parametrize(("source", "target"), [(12, 12), (8, 12)])
def test_a_rotation_is_recovered(family: str, source: int, target: int):
    """If the other space is a rotation, new vectors are mapped onto the true ones."""
    turn = rotation(target)[:source]
    vectors, others = clustered(400, source), clustered(100, source, seed=7)
    made = fitted(family, vectors, vectors @ turn)
    assert cosines(mapped(made, others), others @ turn).min() > 1 - 1e-4


def test_an_affine_map_is_recovered():
    """A stretch and a shift, which no orthogonal map undoes, are undone by regression."""
    targets = clustered(600, 10)
    stretch = rotation(10) * np.linspace(0.5, 2, 10)
    sources = targets @ stretch + 0.3
    others = clustered(100, 10, seed=9)
    made = fitted("ridge", sources, targets)
    assert cosines(mapped(made, others @ stretch + 0.3), others).min() > 1 - 1e-4
    assert cosines(mapped(fitted("procrustes", sources, targets), sources), targets).mean() < 0.99


@settings(max_examples=25, deadline=None)
@given(
    pairs=st.integers(16, 200),
    source=st.integers(2, 40),
    target=st.integers(2, 12),
    noise=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_ridge_is_never_worse_than_the_mean(pairs: int, source: int, target: int, noise: float, seed: int):
    """On its own pairs the squared error is at most that of predicting the mean, with few pairs too."""
    rng = np.random.default_rng(seed)
    sources = clustered(pairs, source, seed)
    targets = unit(sources @ rng.standard_normal((source, target)) + noise * rng.standard_normal(target))
    found = ridge(checked(sources, targets, None, least=2))
    errors = ((sources @ found.weight + found.offset - targets) ** 2).sum()
    assert errors <= ((targets - targets.mean(axis=0)) ** 2).sum() * (1 + 1e-6)


def test_the_penalty_has_the_least_cross_validation_error():
    """It is the one of the grid for which n RSS / (n − trace of the hat matrix)² is least."""
    sources = clustered(120, 30)
    targets = unit(sources @ RNG.standard_normal((30, 5)) + RNG.standard_normal((120, 5)))
    found = ridge(checked(sources, targets, None, least=2))
    centred, wanted = sources - sources.mean(axis=0), targets - targets.mean(axis=0)
    gram = centred.T @ centred

    def error(penalty: float) -> float:
        inverse = np.linalg.inv(gram + penalty * np.trace(gram) / 30 * np.eye(30))
        hat = centred @ inverse @ centred.T
        return float(((wanted - hat @ wanted) ** 2).sum() / (119 - np.trace(hat)) ** 2)

    best = error(found.penalty)
    assert all(best <= error(found.penalty * factor) for factor in (0.01, 0.3, 3.0, 100.0))


def test_low_rank_is_of_low_rank():
    """Where the targets lie in few dims, the map does."""
    sources = clustered(600, 20)
    hidden = RNG.standard_normal((20, 3)) @ RNG.standard_normal((3, 16))
    noisy = sources @ hidden + 0.5 * RNG.standard_normal((600, 16))
    made = fitted("low-rank", sources, noisy)
    scales = np.linalg.svd(made.tensors["weight"], compute_uv=False)
    assert 3 <= (scales > 1e-5 * scales[0]).sum() < 12


def test_relative_needs_fewer_pairs_than_dims():
    """With a pair for every third dimension, neighbours are still found better than by chance."""
    vectors = clustered(200, 48)
    made = fitted("relative", vectors[:20], vectors[:20] @ rotation(48))
    found, true = mapped(made, vectors[20:]), vectors[20:] @ rotation(48)
    best = (found @ true.T).argmax(axis=1)
    assert (best == np.arange(180)).mean() > 0.2


@pytest.mark.parametrize("family", ["ridge", "low-rank"])
def test_side_features_are_used(family: str):
    """What the old vectors have lost and the side features know, the map knows."""
    whole = clustered(800, 20)
    lost, kept = whole[:, :8], whole[:, 8:]
    side = (lost @ rotation(8) * 100).astype(np.float32)
    alone = fitted(family, kept[:600], whole[:600])
    joined = fitted(family, kept[:600], whole[:600], side=side[:600], side_fingerprint="s")
    without = cosines(mapped(alone, kept[600:]), whole[600:]).mean()
    assert cosines(mapped(joined, kept[600:], side[600:]), whole[600:]).mean() > max(0.999, without + 0.02)
