"""What every basis does with the vectors that it is given, and refuses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.spec import Basis
from encoders.errors import BasisMismatch, BasisUnfit
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, space

NEW, OLD = space("new", 12), space("old", 8)
RNG = np.random.default_rng(0)


def basis(**changes: object) -> Basis:
    """A network with side features, of arbitrary numbers."""
    draw = np.random.default_rng(5).standard_normal
    tensors = {
        "weight": draw((15, 8)),
        "offset": draw(8),
        "gelu_weight": draw((15, 6)),
        "gelu_offset": draw(6),
        "gelu_out": draw((6, 8)),
        "residual_weight": draw(15) / 10,
        "residual_offset": draw(1),
    }
    fields = {
        "family": "mlp",
        "direction": "queries",
        "source": NEW,
        "target": OLD,
        "side": "f00d",
        "side_dim": 3,
        "pairs": 500,
        "seed": 0,
        "metrics": {"recall": 0.5},
        "tensors": {name: tensor.astype(np.float32) for name, tensor in tensors.items()},
    }
    return Basis(**{**fields, **changes})


def test_it_computes_what_its_tensors_say():
    """A network is its linear map, plus its hidden layer under GELU, scaled to unit norm."""
    made = basis()
    vectors, side = RNG.standard_normal((50, 12)), RNG.standard_normal((50, 3))
    t = made.tensors
    inputs = np.hstack([vectors, side])
    hidden = inputs @ t["gelu_weight"] + t["gelu_offset"]
    hidden = hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3))) / 2
    expected = inputs @ t["weight"] + t["offset"] + hidden @ t["gelu_out"]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = made.apply(vectors, side, space=NEW, direction="queries")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    residuals = np.minimum(np.exp(inputs @ t["residual_weight"] + t["residual_offset"]), 2)
    np.testing.assert_allclose(made.residuals(vectors, side), residuals, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(0, 9000), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_rows_do_not_matter_to_each_other(rows: int, dtype: type):
    """A vector becomes the same among any number of others, in any precision that holds it."""
    made = basis()
    rng = np.random.default_rng(rows)
    vectors = rng.standard_normal((rows, 12)).astype(np.float16).astype(dtype)
    side = rng.standard_normal((rows, 3)).astype(np.float16).astype(dtype)
    found = mapped(made, vectors, side)
    assert found.shape == (rows, 8)
    for row in range(0, rows, 4095):
        alone = mapped(made, vectors[row : row + 1], side[row : row + 1])
        np.testing.assert_allclose(found[row : row + 1], alone, atol=1e-5)


@pytest.mark.parametrize("family", ["mean-shift", "ridge"])
def test_bad_rows_stay_bad_and_alone(family: str):
    """Zero gives zero, NaN and infinity give NaN, and the rows between them are as without them."""
    vectors = clustered(300, 8)
    made = fitted(family, vectors, clustered(300, 8, seed=0) + 0.1)
    clean = mapped(made, vectors)
    spoilt = vectors.copy()
    spoilt[3], spoilt[5, 2], spoilt[7, 1] = 0, np.nan, np.inf
    found = mapped(made, spoilt)
    assert not found[3].any()
    assert np.isnan(found[[5, 7]]).all()
    kept = np.delete(np.arange(300), [3, 5, 7])
    np.testing.assert_allclose(found[kept], clean[kept], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found[kept], axis=1), 1, atol=1e-5)
    assert made.residuals(spoilt).shape == (300,)


@pytest.mark.parametrize(
    ("space_of", "direction", "shape", "side", "says"),
    [
        (OLD, "queries", (4, 8), (4, 3), r"from new_12 .* to old_8 .* vectors of old_8 .*evervec probe"),
        (NEW, "rows", (4, 12), (4, 3), r"queries of a new space.*asked for 'rows'.*direction='rows'"),
        (NEW, "queries", (4, 11), (4, 3), r"new_12 \(12 dims.*\(4, 11\); give vectors as \(n, 12\)"),
        (NEW, "queries", (12,), (4, 3), r"shape \(12,\); give vectors as \(n, 12\)"),
        (NEW, "queries", (4, 12), None, r"needs 3 side features.*given none; .*open_side"),
        (NEW, "queries", (4, 12), (5, 3), r"\(4, 3\), and is given \(5, 3\)"),
        (NEW, "queries", (4, 12), (4, 2), r"\(4, 3\), and is given \(4, 2\)"),
    ],
)
def test_it_refuses_what_it_was_not_fitted_for(
    space_of: object, direction: str, shape: tuple, side: tuple | None, says: str
):
    """Another space, the other direction, other lengths: both sides are named, and what to use."""
    beside = None if side is None else np.ones(side, np.float32)
    with pytest.raises(BasisMismatch, match=says):
        basis().apply(np.ones(shape, np.float32), beside, space=space_of, direction=direction)


def test_side_features_that_nobody_asked_for_are_refused():
    """A basis without side features does not drop some silently."""
    made = fitted("ridge", clustered(300, 8), clustered(300, 6))
    with pytest.raises(BasisMismatch, match="leave them out"):
        mapped(made, clustered(4, 8), np.ones((4, 3), np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "ridge"},
        {"direction": "rows"},
        {"source": space("other", 12)},
        {"target": dataclasses.replace(OLD, fingerprint="1" * 64)},
        {"side": "beef"},
        {"pairs": 501},
        {"seed": 1},
        {"tensors": {**basis().tensors, "offset": basis().tensors["offset"] + 1e-6}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_id_covers_everything(changes: dict):
    """Whatever moves a vector or says where it belongs changes the id."""
    assert basis(**changes).basis_id != basis().basis_id


def test_metrics_are_added_and_leave_the_id():
    """Measuring a basis gives the same basis."""
    measured = basis().measured({"gap_closed": 0.7})
    assert measured.metrics == {"recall": 0.5, "gap_closed": 0.7}
    assert measured.basis_id == basis().basis_id


def test_tensors_cannot_change():
    """Neither in place nor through the array that they were given as."""
    offset = np.zeros(8, np.float32)
    made = basis(tensors={**basis().tensors, "offset": offset})
    before = made.basis_id
    offset += 1
    assert dataclasses.replace(made).basis_id == before
    with pytest.raises(ValueError, match="read-only"):
        made.tensors["offset"][0] = 1


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"offset": None}, "needs a tensor 'offset'"),
        ({"weight": np.ones((12, 8), np.float32)}, r"'weight' is \(12, 8\), and should be \(15, 8\)"),
        ({"weight": None}, "without a weight 15 inputs cannot become 8"),
        ({"gelu_out": None}, "'gelu_out' is missing"),
        ({"residual_offset": None}, "'residual_offset' is missing"),
        ({"relu_weight": np.ones((15, 8), np.float32)}, "no tensor 'relu_weight'"),
        ({"offset": np.ones(8)}, "float64, and should be float32"),
        ({"offset": np.full(8, np.nan, np.float32)}, "NaN or infinite"),
        ({"offset": np.ones(5, np.float32)}, "5 numbers, the target space 8 dims"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict, says: str):
    """What is no basis is refused when it is made, not when it is used."""
    changed = {k: v for k, v in {**basis().tensors, **tensors}.items() if v is not None}
    with pytest.raises(BasisUnfit, match=says):
        basis(tensors=changed)


def test_side_without_a_fingerprint_is_refused():
    """Side features are known by what made them."""
    with pytest.raises(BasisUnfit, match="give both, or neither"):
        basis(side="")


def test_parameters_are_those_that_carry():
    """The predicted residuals do not count."""
    assert basis().parameters == 15 * 8 + 8 + 15 * 6 + 6 + 6 * 8
    vectors = clustered(100, 8)
    shift = fitted("mean-shift", vectors, vectors)
    assert shift.parameters == 8
    np.testing.assert_allclose(cosines(mapped(shift, vectors), vectors), 1, atol=1e-6)
