"""The head of BT²: identities that hold exactly, whatever was learned."""

import numpy as np
import pytest

from encoders.basis.bt2 import SCALE, compatible, recovered
from encoders.basis.spec import Basis
from encoders.errors import BasisMismatch
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, rotation, unit

DIMS = [(24, 24), (16, 24), (24, 16)]


@pytest.fixture(scope="module", params=DIMS, ids=lambda dims: f"{dims[0]}-to-{dims[1]}")
def case(request: pytest.FixtureRequest) -> tuple[Basis, np.ndarray, np.ndarray]:
    """A head, new vectors, and their compatible ones."""
    new, old = request.param
    vectors = clustered(900, new)
    draw = np.random.default_rng(2).standard_normal((new, old))
    basis = fitted("bt2-head", vectors[:600], unit(vectors[:600] @ draw))
    return basis, vectors[600:], compatible(basis, vectors[600:])


def helpers(basis: Basis, vectors: np.ndarray) -> np.ndarray:
    """The numbers p that were added, of unit norm."""
    return unit(vectors @ basis.tensors["unit_weight"] + basis.tensors["unit_offset"])


def test_every_vector_has_the_same_norm(case: tuple):
    """‖compatible‖² = C² + 1, so that inner product and cosine rank alike."""
    _, _, found = case
    np.testing.assert_allclose((found**2).sum(axis=1), SCALE**2 + 1, rtol=1e-5)


def test_products_blend_new_and_added(case: tuple):
    """Products of compatible vectors are C² b · b' + p · p'."""
    basis, vectors, found = case
    added = helpers(basis, vectors)
    expected = SCALE**2 * vectors @ vectors.T + added @ added.T
    np.testing.assert_allclose(found @ found.T, expected, atol=2e-5)


def test_the_new_vector_is_recovered(case: tuple):
    """Nothing of the new encoder's vector is lost."""
    basis, vectors, found = case
    assert found.shape[1] == basis.source.dim + len(basis.tensors["unit_offset"])
    np.testing.assert_allclose(recovered(basis, found), vectors, atol=1e-5)


def test_the_old_block_has_the_norm_that_theory_says(case: tuple):
    """‖block‖² = 1 + C² ‖the part of b B₁ that is in it‖², and the rest holds the rest."""
    basis, vectors, found = case
    old = basis.target.dim
    rest = basis.tensors["weight"][:, old:] / SCALE  # the directions of b B₁ that p displaced
    outside = ((vectors @ rest) ** 2).sum(axis=1)
    np.testing.assert_allclose((found[:, :old] ** 2).sum(axis=1), 1 + SCALE**2 * (1 - outside), rtol=1e-4)


def test_the_old_block_is_the_bridged_query(case: tuple):
    """What is applied to a query are the leading numbers of its compatible vector."""
    basis, vectors, found = case
    np.testing.assert_allclose(mapped(basis, vectors), unit(found[:, : basis.target.dim]), atol=1e-5)


def test_the_block_meets_old_vectors():
    """Learned from pairs of a rotated space, queries land near their old vectors."""
    vectors = clustered(900, 24)
    old = vectors @ rotation(24)
    made = fitted("bt2-head", vectors[:600], old[:600])
    assert cosines(mapped(made, vectors[600:]), old[600:]).mean() > 0.95


def test_other_families_have_no_compatible_vector():
    """The error names the family."""
    vectors = clustered(300, 8)
    with pytest.raises(BasisMismatch, match="of family procrustes; give one of bt2-head"):
        compatible(fitted("procrustes", vectors, vectors), vectors)
