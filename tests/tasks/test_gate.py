"""The gate: nothing passes that is not clearly better, and of what passes the cheapest of the best."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.measure import Bootstrap
from encoders.basis.spec import Basis, Space
from tasks.gate import Gate, Limits, Way, smallest
from tasks.probed import Cost
from tasks.trial import Tried

QUERIES = 200
NOISE = np.random.default_rng(0).normal(0, 0.05, QUERIES)
LOW, HIGH = np.full(QUERIES, 0.4) + NOISE, np.full(QUERIES, 0.8) + NOISE[::-1]
BOOTSTRAP = Bootstrap(QUERIES)


def scores(mean, seed=1):
    """Scores of queries around a mean, of little noise."""
    return mean + np.random.default_rng(seed).normal(0, 0.02, QUERIES)


def cost(seconds=10.0, rows=0, *, query_ms=1.0, money=None):
    return Cost(rows, seconds, 1_000, None, money, query_ms)


def way(strategy, mean, *, cascade=0, seed=1, **costs):
    return Way(strategy, None, cascade, scores(mean, seed), cost(**costs))


def gate(limits=None, *, low=LOW, high=HIGH):
    return Gate(low, high, BOOTSTRAP, limits or Limits())


def full(mean=0.8, **costs):
    return way("reencode", mean, **{"seconds": 1_000.0, "rows": 9_000, **costs})


@settings(max_examples=60, deadline=None)
@given(gain=st.floats(-0.2, 0.2), spread=st.floats(0.001, 0.5), seed=st.integers(0, 1000))
def test_only_what_is_better_with_confidence_passes(gain, spread, seed):
    """The interval of the paired differences is above zero; and then that of no other kind of doubt."""
    better = LOW + np.random.default_rng(seed).normal(gain, spread, QUERIES)
    option = gate().option(Way("map", None, 0, better, cost()))
    low, high = BOOTSTRAP.interval(better - LOW)
    assert option.passes == (low > 0)
    assert option.gain == pytest.approx((float((better - LOW).mean()), low, high))
    assert option.interval == BOOTSTRAP.interval(better)
    closed = (better.mean() - LOW.mean()) / (HIGH.mean() - LOW.mean())
    assert option.gap_closed == pytest.approx(closed)


@pytest.mark.parametrize("strategy", ["bridge", "map", "reencode", "reuse"])
def test_what_is_as_good_as_before_does_not_pass(strategy):
    """Not even what costs nothing."""
    option = gate().option(Way(strategy, None, 0, LOW.copy(), cost(0.0)))
    assert not option.passes
    assert "no better than the status quo" in option.why


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(seconds=9.0), "takes 10 s, 9 are allowed"),
        (Limits(money=4.0), "costs more than 4.00"),
        (Limits(query_ms=0.5), "adds up to 1 ms to a query, 0 are allowed"),
    ],
)
def test_what_may_not_be_afforded_does_not_pass(limits, told):
    """However good it is; at the limit itself it does."""
    option = gate(limits).option(way("map", 0.8, money=5.0))
    assert (option.passes, option.why) == (False, told)
    assert gate(Limits(10.0, 5.0, 1.0)).option(way("map", 0.8, money=5.0)).passes


def test_an_unknown_price_is_no_price():
    """A limit of money refuses what nobody knows the price of."""
    option = gate(Limits(money=4.0)).option(way("map", 0.8, money=None))
    assert (option.passes, option.why) == (False, "its price is not known")


def test_of_the_best_the_cheapest_and_then_the_simplest():
    """What the best does not clearly beat counts as equal."""
    best = way("map", 0.75, cascade=100, seconds=50.0)
    like = replace(best, scores=best.scores - 0.0003 + NOISE / 10, cascade=50)
    cheap = replace(like, cascade=0, cost=cost(5.0))
    bridge = replace(cheap, strategy="bridge")
    poor = way("bridge", 0.65, seconds=0.1)
    assert gate().verdict([best, poor, full()]).cascade == 100
    assert gate().verdict([best, like, full()]).cascade == 50
    verdict = gate().verdict([best, like, cheap, poor, full()])
    assert (verdict.strategy, verdict.cascade) == ("map", 0)
    assert gate().verdict([cheap, bridge, full()]).strategy == "bridge"


def test_what_closes_little_gives_way_to_encoding_everything():
    """If that is to be had; else the collection stays as it is."""
    little = way("bridge", 0.45)
    assert gate().verdict([little, full()]).strategy == "reencode"
    assert gate(Limits(min_gap_closed=0.1)).verdict([little, full()]).strategy == "bridge"
    dear = gate(Limits(seconds=100.0)).verdict([little, full()])
    assert dear.strategy == "stay"
    assert "closes only 1" in dear.reason
    assert "takes 1,000 s" in dear.reason
    gone = gate().verdict([little])
    assert gone.strategy == "stay"
    assert "originals are not there" in gone.reason


def test_a_cheaper_way_that_closes_too_little_does_not_hide_one_that_closes_enough():
    """Among those that are as good as the best, the cheapest of those that close enough is taken."""
    wide = np.random.default_rng(5).normal(0, 0.5, QUERIES)
    best = Way("map", None, 0, LOW + 0.22, cost(50.0))
    near = Way("bridge", None, 0, LOW + 0.18 + wide - wide.mean(), cost(1.0))
    options = [gate().option(one) for one in (near, best)]
    assert [option.passes for option in options] == [True, True]
    assert options[0].gap_closed < 0.5 < options[1].gap_closed
    assert BOOTSTRAP.interval(best.scores - near.scores)[0] <= 0
    assert gate().verdict([best, near, full()]).strategy == "map"


def test_a_new_encoder_that_is_no_better_is_no_reason_to_move():
    """The verdict says so, with the interval, and not that something is too dear."""
    verdict = gate(Limits(seconds=1.0), high=LOW).verdict([way("map", 0.4), full(0.4)])
    assert verdict.strategy == "stay"
    assert "no better than the old one" in verdict.reason


def test_encoding_what_the_probe_has_seen_already_is_one_of_the_ways():
    """Where nothing is left to encode it is free, and best."""
    seen = full(rows=0, seconds=1.0)
    verdict = gate().verdict([way("map", 0.7), seen])
    assert (verdict.strategy, verdict.basis) == ("reencode", None)
    assert gate().verdict([way("map", 0.8, seconds=0.5), full(seconds=1_000.0)]).strategy == "map"


def test_without_a_gap_what_is_better_passes_all_the_same():
    """Encoding everything anew may be worse than a map that keeps what was good."""
    verdict = gate(high=LOW - 0.1).verdict([way("map", 0.5), full(0.3)])
    assert verdict.strategy == "map"


def tried(mean, parameters, seed=1):
    """A basis of so many parameters that scores so."""
    dims = (Space("old", "o" * 64, 2), Space("new", "n" * 64, 2))
    tensors = {
        "offset": np.zeros(2, np.float32),
        "gelu_weight": np.zeros((2, parameters), np.float32),
        "gelu_offset": np.zeros(parameters, np.float32),
        "gelu_out": np.zeros((parameters, 2), np.float32),
        "residual_weight": np.zeros(2, np.float32),
        "residual_offset": np.zeros(1, np.float32),
        "weight": np.eye(2, dtype=np.float32),
    }
    basis = Basis("ridge", "rows", *dims, "", 0, 40, 0, {}, tensors)
    return Tried(basis, False, 1.0, scores(mean, seed))


def test_the_smallest_basis_that_is_not_clearly_beaten():
    """Fewer parameters, unless the best is better with confidence; of equal ones the better."""
    large, small, poor = tried(0.6, 50), tried(0.5995, 5, seed=2), tried(0.5, 1)
    assert smallest([large, small, poor], BOOTSTRAP) is small
    assert smallest([large, poor], BOOTSTRAP) is large
    twin = replace(small, scores=small.scores + 0.0001)
    assert smallest([small, twin, large], BOOTSTRAP) is twin
    assert smallest([], BOOTSTRAP) is None
