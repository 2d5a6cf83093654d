"""Orthogonal maps: what they keep, and what they recover exactly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.orthogonal import SLACKS, nearest_orthogonal, relaxed
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, rotation, unit

DIMS = st.integers(3, 20)
SEEDS = st.integers(0, 10_000)
EACH = pytest.mark.parametrize("family", ["procrustes", "centred-procrustes"])


@EACH
@settings(max_examples=20, deadline=None)
@given(source=DIMS, target=DIMS, seed=SEEDS)
def test_weights_are_orthonormal(family: str, source: int, target: int, seed: int):
    """Rows are orthonormal on the way up, columns on the way down, both between equal dims."""
    made = fitted(family, clustered(80, source, seed), clustered(80, target, seed + 1))
    weight = made.tensors["weight"].astype(np.float64)
    product = weight @ weight.T if source <= target else weight.T @ weight
    np.testing.assert_allclose(product, np.eye(min(source, target)), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(source=DIMS, more=st.integers(0, 10), seed=SEEDS)
def test_cosines_are_kept(source: int, more: int, seed: int):
    """Without an offset the cosine of any two vectors stays, between equal dims and on the way up."""
    vectors = clustered(80, source, seed)
    made = fitted("procrustes", vectors, clustered(80, source + more, seed + 1))
    found = mapped(made, vectors)
    np.testing.assert_allclose(found @ found.T, vectors @ vectors.T, atol=1e-5)


@EACH
@settings(max_examples=20, deadline=None)
@given(dim=DIMS, more=st.integers(0, 10), seed=SEEDS)
def test_a_rotation_is_recovered(family: str, dim: int, more: int, seed: int):
    """If the other space is a rotation, also into more dims, new vectors are mapped onto the true ones."""
    turn = rotation(dim + more, seed)[:dim]
    vectors, others = clustered(200, dim, seed), clustered(50, dim, seed + 1)
    made = fitted(family, vectors, vectors @ turn)
    np.testing.assert_allclose(mapped(made, others), others @ turn, atol=1e-4)
    back = fitted(family, vectors @ turn, vectors)
    np.testing.assert_allclose(mapped(back, mapped(made, others)), others, atol=1e-4)


def test_a_moved_rotation_needs_centring():
    """Rotated about another point than the origin, only the centred map is exact."""
    vectors = clustered(400, 16)
    # targets of unit norm although moved: what is rotated lies in 15 dims, the move is along the last
    flat = vectors[:, :15] / np.linalg.norm(vectors[:, :15], axis=1, keepdims=True)
    targets = np.hstack([0.6 * flat @ rotation(15), np.full((400, 1), 0.8)])
    sources = np.hstack([0.6 * flat, np.full((400, 1), -0.8)])
    sources[:, 0] += 2
    centred = fitted("centred-procrustes", sources, targets)
    plain = fitted("procrustes", sources, targets)
    assert cosines(mapped(centred, sources), targets).min() > 1 - 1e-5
    assert cosines(mapped(plain, sources), targets).mean() < 0.99


@EACH
@settings(max_examples=15, deadline=None)
@given(dim=DIMS, seed=SEEDS)
def test_turning_both_spaces_turns_the_map(family: str, dim: int, seed: int):
    """Fitted between rotated spaces, the map is the rotated map."""
    vectors = clustered(100, dim, seed)
    targets = unit(vectors + 0.1 * clustered(100, dim, seed + 1))
    here, there = rotation(dim, seed + 2), rotation(dim, seed + 3)
    plain = fitted(family, vectors, targets)
    turned = fitted(family, vectors @ here, targets @ there)
    np.testing.assert_allclose(mapped(turned, vectors @ here), mapped(plain, vectors) @ there, atol=1e-4)


@pytest.mark.parametrize(("source", "target"), [(12, 12), (8, 12), (12, 8)])
def test_slack_buys_a_closer_fit(source: int, target: int):
    """The strict limit is the orthogonal map; more slack deviates more, up to it, and fits better."""
    sources = clustered(500, source)
    targets = unit(sources @ np.random.default_rng(2).standard_normal((source, target)))
    sources, targets = sources - sources.mean(axis=0), targets - targets.mean(axis=0)
    gram, cross = sources.T @ sources / 500, sources.T @ targets / 500
    weights = [relaxed(gram, cross, slack) for slack in SLACKS]
    np.testing.assert_array_equal(weights[0], nearest_orthogonal(cross))
    errors = [np.trace(w.T @ gram @ w) - 2 * np.trace(w.T @ cross) for w in weights]
    assert all(later < earlier for earlier, later in pairwise(errors))
    size = min(source, target)
    for weight, slack in zip(weights, SLACKS, strict=True):
        product = weight @ weight.T if source < target else weight.T @ weight
        deviation = np.linalg.norm(product - np.eye(size)) / np.sqrt(size)
        assert deviation <= slack + 0.05
