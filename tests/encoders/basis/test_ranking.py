"""Maps of queries that are fitted to rank old rows as new ones would be."""

import numpy as np
import pytest

from encoders.basis.pairs import checked
from encoders.basis.regression import ridge
from tests.encoders.basis.made import clustered, fitted, mapped, rotation, unit

NEW = clustered(1500, 24)
OLD = unit(NEW[:, :14] + 0.2 * clustered(1500, 14, seed=5))
"""An old space that has lost dims of the new one, and what was in them."""


def recall(queries: np.ndarray, rows: np.ndarray, new: np.ndarray, own: np.ndarray) -> float:
    """Share of each query's ten nearest new rows that are among its ten best old rows."""
    best = [np.argsort(-(scores), axis=1)[:, :10] for scores in (queries @ rows.T, own @ new.T)]
    return float(np.mean([len(set(a) & set(b)) for a, b in zip(*best, strict=True)]) / 10)


@pytest.fixture(scope="module")
def recalls() -> dict[str, float]:
    """Of each family, on queries and rows that it was not fitted to."""
    rows, queries = slice(800, 1300), slice(1300, 1500)
    families = ("procrustes", "ridge", "adjoint", "listwise")
    return {
        family: recall(
            mapped(fitted(family, NEW[:800], OLD[:800]), NEW[queries]), OLD[rows], NEW[rows], NEW[queries]
        )
        for family in families
    }


def test_what_is_fitted_to_rank_ranks_best(recalls: dict[str, float]):
    """Lists beat the adjoint, which beats maps that are fitted to coincide."""
    assert recalls["listwise"] > recalls["adjoint"] > max(recalls["procrustes"], recalls["ridge"])


def test_scores_of_the_adjoint_are_those_of_mapped_rows():
    """A query's products with old rows order them as its products with the rows' regression would."""
    made = fitted("adjoint", NEW, OLD)
    whole = ridge(checked(OLD, NEW, None, least=2))
    found = mapped(made, NEW[:20]) @ OLD.T
    predicted = NEW[:20] @ (OLD @ whole.weight + whole.offset).T
    for one, other in zip(found, predicted, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("family", ["adjoint", "listwise"])
def test_a_rotation_is_ranked_exactly(family: str):
    """If the old space is the new one turned, old rows are ordered as the new ones."""
    turned = (NEW @ rotation(24)).astype(np.float32)
    made = fitted(family, NEW[:800], turned[:800])
    queries = mapped(made, NEW[1300:])
    assert recall(queries, turned[800:1300], NEW[800:1300], NEW[1300:]) > 0.97
