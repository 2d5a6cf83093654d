"""What is carried out: the verdict, or what was asked for; never what does not pass, but by force."""

import pytest

from tasks.decision import Wish, decide
from tasks.errors import GateRefused, Refused
from tasks.probed import Calibrated, Verdict
from tests.tasks.probes import cost, option, probe

BRIDGE = option(strategy="bridge", basis="procrustes", score=0.41, why="as good")
MAP = option(score=0.44)
CASCADE = option(cascade=50, score=0.45, side=True)
DEAR = option(cascade=200, score=0.46, passes=False, why="adds up to 900 ms to a query, 500 are allowed")
WORSE = option(strategy="reuse", basis=None, score=0.1, passes=False, why="no better than the status quo")
FULL = option(strategy="reencode", basis=None, score=0.455, cost=cost(encode_rows=24_500, money=310.25))
KNOWN = tuple(Calibrated(s, o, (0.0, 1.0), (0.1, 0.9)) for s in ("map", "bridge") for o in ("encoded", s))
STAY = Verdict("stay", 0, None, "nothing passes")


def measured(verdict="map", cascade=0, **changes):
    said = verdict if isinstance(verdict, Verdict) else Verdict(verdict, cascade, None, "it was measured")
    options = (BRIDGE, MAP, CASCADE, DEAR, WORSE, FULL)
    return probe(**{"options": options, "verdict": said, "calibrators": KNOWN, **changes})


def made(decision):
    return decision.strategy, decision.family, decision.side, decision.cascade, decision.forced


@pytest.mark.parametrize(
    ("wish", "verdict", "expected"),
    [
        (Wish(), ("map", 0), ("map", "ridge", False, 0, False)),
        (Wish(), ("map", 50), ("map", "ridge", True, 50, False)),
        (Wish(cascade=0), ("map", 50), ("map", "ridge", False, 0, False)),
        (Wish(cascade=50), ("map", 0), ("map", "ridge", True, 50, False)),
        (Wish(cascade=50, yes=True), ("reencode", 0), ("reencode", None, False, 0, False)),
        (Wish("bridge"), ("map", 0), ("bridge", "procrustes", False, 0, False)),
        (Wish("map"), ("bridge", 0), ("map", "ridge", True, 50, False)),
        (Wish("reencode"), ("map", 0), ("reencode", None, False, 0, False)),
        (Wish(forced="map", cascade=200, yes=True), ("bridge", 0), ("map", "ridge", False, 200, True)),
        (Wish(forced="reuse", yes=True), ("map", 0), ("reuse", None, False, 0, True)),
        (Wish(forced="map", yes=True), ("stay", 0), ("map", "ridge", True, 50, True)),
    ],
)
def test_what_is_carried_out(wish, verdict, expected):
    """By the verdict, or by one's wish where it passes, or by force."""
    assert made(decide(measured(*verdict), wish)) == expected


@pytest.mark.parametrize(
    ("wish", "verdict", "told"),
    [
        (Wish(), "stay", "stay on old_3_aa: it was measured. Nothing was changed"),
        (Wish(yes=True), "stay", "Nothing was changed"),
        (Wish("reuse", yes=True), "map", "does not pass the gate: no better than the status quo"),
        (Wish("map", cascade=200), "map", "does not pass the gate: adds up to 900 ms"),
        (Wish(cascade=200, yes=True), "map", "does not pass the gate: adds up to 900 ms"),
        (Wish("map", cascade=70), "map", "map with a cascade of 70 was not measured.*bridge, map"),
        (Wish(forced="map", cascade=70, yes=True), "map", "was not measured"),
    ],
)
def test_what_the_gate_does_not_permit(wish, verdict, told):
    """Ends with the exit code of the gate, and says what was measured; --yes alone changes nothing."""
    with pytest.raises(GateRefused, match=told) as caught:
        decide(measured(verdict), wish)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("wish", "verdict", "told"),
    [
        (Wish(forced="map"), "stay", "overrides what was measured .*--force-strategy map --yes"),
        (Wish(forced="reencode"), "reencode", "overrides what was measured"),
        (Wish(), "reencode", r"encodes 24,500 rows, takes some 4 min and costs 310\.25: .* --yes"),
    ],
)
def test_what_needs_yes(wish, verdict, told):
    """Force, and a full recompute that nobody asked for by name."""
    with pytest.raises(Refused, match=told) as caught:
        decide(measured(verdict), wish)
    assert caught.value.exit_code == 3


def test_a_recompute_that_encodes_nothing_needs_no_yes():
    """The probe has seen all rows."""
    free = option(strategy="reencode", basis=None, cost=cost(encode_rows=0))
    assert decide(measured("reencode", options=(MAP, free)), Wish()).strategy == "reencode"


def test_a_decision_takes_its_own_numbers_along():
    """Calibrators of the strategy alone; the scores that were held out; which probe it follows."""
    decision = decide(measured("bridge"), Wish())
    assert [c.origin for c in decision.calibrators] == ["encoded", "bridge"]
    assert decision.metrics == {
        "score": BRIDGE.score,
        "status_quo": 0.337,
        "ceiling": 0.455,
        "gap_closed": BRIDGE.gap_closed,
    }
    assert decision.report == "p1"
    plain = decide(measured(options=(option(gap_closed=None),)), Wish())
    assert "gap_closed" not in plain.metrics
