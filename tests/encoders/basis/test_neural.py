"""Networks: what they add to a ridge regression, and when they stop."""

import numpy as np
import pytest

from encoders.basis.training import rates
from tests.encoders.basis.made import clustered, cosines, fitted, mapped, rotation, unit

PAIRS, ALL = 1200, 1600
SOURCES = clustered(ALL, 12)
BENT = np.maximum(SOURCES @ np.random.default_rng(1).standard_normal((12, 32)), 0)
TARGETS = unit(BENT @ np.random.default_rng(2).standard_normal((32, 10)))
"""A space that no linear map leads to."""


@pytest.mark.parametrize("family", ["mlp", "mlp-relational"])
def test_networks_learn_what_is_not_linear(family: str):
    """On vectors that they have not seen they are closer than the regression that they begin with."""
    found = [
        cosines(mapped(fitted(f, SOURCES[:PAIRS], TARGETS[:PAIRS]), SOURCES[PAIRS:]), TARGETS[PAIRS:]).mean()
        for f in ("ridge", family)
    ]
    assert 1 - found[1] < 0.85 * (1 - found[0])


@pytest.mark.parametrize("family", ["mlp", "mlp-relational"])
def test_networks_do_no_harm_where_all_is_linear(family: str):
    """With a rotation, and side features that say nothing, the map stays nearly exact."""
    turned = SOURCES @ rotation(12)
    noise = clustered(ALL, 6, seed=9)
    made = fitted(family, SOURCES[:PAIRS], turned[:PAIRS], side=noise[:PAIRS], side_fingerprint="s")
    assert cosines(mapped(made, SOURCES[PAIRS:], noise[PAIRS:]), turned[PAIRS:]).mean() > 0.995


def test_a_budget_shortens_the_fit():
    """With hardly any time there is still a basis, at least as good as no map at all."""
    made = fitted("mlp", SOURCES[:PAIRS], TARGETS[:PAIRS], seconds=1e-3)
    assert cosines(mapped(made, SOURCES[PAIRS:]), TARGETS[PAIRS:]).mean() > 0.5


def test_rates_rise_and_fall():
    """One per step while there is time, ending near nothing; few where there is none."""
    shares = list(rates(200, 60.0))
    assert len(shares) == 200
    assert max(shares) > 0.9
    assert shares[-1] < 0.001
    assert shares[:20] == sorted(shares[:20])
    assert len(list(rates(200, 0.0))) == 10
