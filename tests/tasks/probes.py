"""Probes for tests: small, and every number in them is another one."""

from dataclasses import replace

from tasks.probed import (
    BackfillCurve,
    Calibrated,
    Cost,
    Fitted,
    Option,
    PairPoint,
    Probed,
    Sample,
    SampleHit,
    Scores,
    Verdict,
)


def cost(**changes):
    """What an option takes, with changes."""
    return replace(Cost(411, 245.0, 38_500_000, 0.57, 12.34, 81.5), **changes)


def option(**changes):
    """A map that passes, with changes."""
    gain = (0.104, 0.092, 0.117)
    made = Option("map", "ridge", False, 0, 0.442, (0.425, 0.459), gain, 0.889, cost(), True, "beats it")
    return replace(made, **changes)


REENCODE = option(
    strategy="reencode",
    basis=None,
    score=0.455,
    interval=(0.438, 0.472),
    gain=(0.118, 0.106, 0.131),
    gap_closed=1.0,
    cost=cost(encode_rows=24_500, seconds=3_846.0, bytes=38_400_000, money=310.25, query_ms=0.0),
    why="costs more than --max-cost 100",
    passes=False,
)
CASCADE = option(
    cascade=50, side=True, score=0.447, interval=(0.43, 0.464), gap_closed=0.934, why="best within its cost"
)
BRIDGE = option(
    strategy="bridge",
    basis="centred-procrustes",
    score=0.301,
    interval=(0.284, 0.318),
    gain=(-0.036, -0.048, -0.024),
    gap_closed=-0.308,
    cost=cost(encode_rows=402, seconds=66.4, bytes=590_000, gpu_hours=None, money=None, query_ms=0.04),
    passes=False,
    why="does not beat the status quo",
)


def hits(origin, text):
    """Two hits, one of them right."""
    return (
        SampleHit(f"{origin}-first", 0.812, True, text),
        SampleHit(f"{origin}-second", 0.733, False, None),
    )


def probe(**changes):
    """A probe with something in every section, with changes."""
    made = Probed(
        id="p1",
        collection="docs",
        made_at="2026-11-20T19:24:11Z",
        version=42,
        from_space="old_3_aa",
        from_model="package:old/model",
        to_space="new_4_bb",
        to_model="package:new/model",
        to_encoder="new",
        rows=25_000,
        items=4_121,
        sample=1_300,
        pairs=404,
        gallery=903,
        queries=207,
        tier="label",
        metric="precision@10",
        status_quo=0.337,
        naive_swap=0.021,
        ceiling=0.455,
        intervals={"status_quo": (0.32, 0.354), "naive_swap": (0.017, 0.025), "ceiling": (0.438, 0.472)},
        options=(BRIDGE, CASCADE, REENCODE, option()),
        families=(
            Fitted("centred-procrustes", False, "bridge", 0.299, (0.282, 0.316), 3.4, 148_224, True),
            Fitted("ridge", True, "map", 0.412, (0.395, 0.429), 2.1, 295_680, True),
            Fitted("mlp-relational", False, "map", 0.411, (0.394, 0.428), 168.0, 1_180_000, False),
        ),
        pair_curve=(
            PairPoint(101, 0.346, (0.329, 0.363)),
            PairPoint(202, 0.384, (0.367, 0.401)),
            PairPoint(404, 0.413, (0.396, 0.43)),
        ),
        pair_curve_basis="ridge + side features",
        backfill=(
            BackfillCurve("random", (0.0, 0.5, 1.0), (0.414, 0.436, 0.4551), 0.4353),
            BackfillCurve("asked", (0.0, 0.5, 1.0), (0.4141, 0.449, 0.4552), 0.4418),
        ),
        scores=(
            Scores("encoded", (0.0, 0.2, 0.4, 0.6), (0, 60, 40)),
            Scores("mapped", (0.4, 0.6, 0.8, 1.0), (25, 50, 25)),
        ),
        calibrators=(Calibrated("map", "mapped", (0.31, 0.72), (0.12, 0.93)),),
        samples=(
            Sample(
                "how to sort", "item-7", hits("old", "about sorting"), hits("new", "sorts"), hits("new", "x")
            ),
        ),
        rows_per_second=61.3,
        machine="2 cores, 23 GiB",
        versions={"torch": "2.9.1"},
        too_long=312,
        unreadable=3,
        changed=11,
        queries_unknown=6,
        fingerprints={"old_3_aa": "aa" * 32, "new_4_bb": "bb" * 32},
        queries_hash="cc" * 32,
        label="package",
        min_gap_closed=0.5,
        seed=17,
        verdict=Verdict("map", 50, "ridge", "the best that passes within its cost"),
        notes=("the queries are held-out items",),
    )
    return replace(made, **changes)
