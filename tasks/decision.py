"""What an upgrade does with a probe: the strategy that is carried out, or why none is."""

from dataclasses import dataclass
from typing import Literal

from tasks.errors import GateRefused, Refused
from tasks.probed import Calibrated, Option, Probed, Strategy


@dataclass(frozen=True)
class Wish:
    """What was asked for: a strategy that must pass the gate, or one that is carried out whatever it says."""

    strategy: Strategy | Literal["auto"] = "auto"
    forced: Strategy | None = None
    cascade: int | None = None
    yes: bool = False


@dataclass(frozen=True)
class Decision:
    """What is to be built: `family` and `side` say by which basis, `report` after which probe ("": none)."""

    strategy: Strategy
    family: str | None
    side: bool
    cascade: int
    forced: bool
    report: str
    metrics: dict[str, float]
    calibrators: tuple[Calibrated, ...] = ()


def decide(probed: Probed, wish: Wish) -> Decision:
    """The strategy to carry out. Raises `GateRefused` if none may be, `Refused` if it needs --yes."""
    name = probed.collection
    again = f"evervec upgrade {name} --to {probed.to_encoder}"
    if wish.forced is not None:
        if not wish.yes:
            raise Refused(
                f"--force-strategy {wish.forced} overrides what was measured (the verdict is "
                f"{probed.verdict.strategy}: {probed.verdict.reason}). If that is meant: {again} "
                f"--force-strategy {wish.forced} --yes"
            )
        return _decision(probed, _option(probed, wish.forced, wish.cascade), forced=True)
    if wish.strategy != "auto":
        option = _passing(probed, wish.strategy, wish.cascade)
        return _decision(probed, option, forced=False)
    verdict = probed.verdict
    if verdict.strategy == "stay":
        raise GateRefused(f"stay on {probed.from_space}: {verdict.reason}. Nothing was changed")
    cascade = verdict.cascade if wish.cascade is None else wish.cascade
    option = _passing(probed, verdict.strategy, cascade if verdict.strategy in ("bridge", "map") else None)
    if verdict.strategy == "reencode" and option.cost.encode_rows and not wish.yes:
        money = "" if option.cost.money is None else f" and costs {option.cost.money:,.2f}"
        raise Refused(
            f"the verdict is to encode everything anew: {verdict.reason}. That encodes "
            f"{option.cost.encode_rows:,} rows, takes some {_time(option.cost.seconds)}{money}: {again} --yes"
        )
    return _decision(probed, option, forced=False)


def _passing(probed: Probed, strategy: Strategy, cascade: int | None) -> Option:
    """Like `_option`; raises `GateRefused` if it does not pass."""
    option = _option(probed, strategy, cascade)
    if option.passes:
        return option
    named = f"{strategy} with a cascade of {option.cascade}" if option.cascade else strategy
    raise GateRefused(
        f"{named} does not pass the gate: {option.why}. The verdict is {probed.verdict.strategy}. Carry it "
        f"out nevertheless with --force-strategy {strategy} --yes"
    )


def _option(probed: Probed, strategy: Strategy, cascade: int | None) -> Option:
    """The option of a strategy: with the cascade asked for, else the best that passes, else the best."""
    found = [o for o in probed.options if o.strategy == strategy and cascade in (None, o.cascade)]
    if not found:
        offered = ", ".join(dict.fromkeys(o.strategy for o in probed.options))
        what = f"{strategy} with a cascade of {cascade}" if cascade else strategy
        raise GateRefused(
            f"{what} was not measured for collection {probed.collection!r}; there are: {offered} "
            f"(see the report {probed.id})"
        )
    return max(found, key=lambda o: (o.passes, o.score))


def _decision(probed: Probed, option: Option, *, forced: bool) -> Decision:
    gap = {} if option.gap_closed is None else {"gap_closed": option.gap_closed}
    return Decision(
        strategy=option.strategy,
        family=option.basis,
        side=option.side,
        cascade=option.cascade,
        forced=forced,
        report=probed.id,
        metrics={"score": option.score, "status_quo": probed.status_quo, "ceiling": probed.ceiling, **gap},
        calibrators=tuple(c for c in probed.calibrators if c.strategy == option.strategy),
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
