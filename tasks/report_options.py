"""The options of a probe: as a table with every number, and in the plane of quality and cost."""

from collections.abc import Sequence

from tasks import charts, wording
from tasks.charts import Axis, Spot
from tasks.markup import dim, hidden, isolated, row, table
from tasks.probed import Option, Probed
from tasks.report_parts import STRATEGIES, figure, levels, measured_on, scored, scrolled
from tasks.wording import NOTHING, count, duration, milliseconds, money, percent, score, signed, size, span

_LONGEST_NAME = 46


def table_of_options(probed: Probed) -> str:
    """Every option beside the status quo, the naive swap and the ceiling; empty without options."""
    if not probed.options:
        return ""
    costs = [option.cost for option in probed.options]
    hours, price = any(c.gpu_hours is not None for c in costs), any(c.money is not None for c in costs)
    strip = hidden("Score between status quo and ceiling")
    heads = ["Option", "Score", strip, "Against today", "Gap closed", "Rows to encode", "Time to build"]
    heads += ["New data", *(["GPU hours"] if hours else []), *(["Money"] if price else [])]
    heads += ["More time a query", "Gate"]
    ends = [value for option in probed.options for value in (option.score, *option.interval)]
    axis = charts.focused_axis("", ends, levels(probed))
    numbered = _numbered(probed)
    groups = [("To compare with", _references(probed, axis, len(heads)))]
    for title, passes in (("Passed the gate, best first", True), ("Did not pass, best first", False)):
        group = [(number, option) for number, option in numbered if option.passes == passes]
        groups.append((title, [_option(probed, axis, (hours, price), *one) for one in group]))
    caption = (
        f"{count(len(numbered), 'option')}: {isolated(probed.metric)} with 95 % intervals. In the small "
        "charts the dashed lines are the status quo and the ceiling; an arrow points at what lies further off"
    )
    hint = '<span class="narrow">Scroll sideways for costs and the gate.</span>'
    rows = [
        f'<tbody><tr><th class="group" scope="rowgroup" colspan="{len(heads)}">{title}</th></tr>'
        f"{''.join(group)}</tbody>"
        for title, group in groups
        if group
    ]
    whole = table(f"{caption}{measured_on(probed)}{dim(hint)}", heads, rows, kind="options")
    return scrolled(whole, "Table of options")


def _numbered(probed: Probed) -> list[tuple[int, Option]]:
    best = sorted(probed.options, key=lambda option: (not option.passes, -option.score))
    return list(enumerate(best, 1))


def _references(probed: Probed, axis: Axis, columns: int) -> list[str]:
    gap, rows = probed.ceiling - probed.status_quo, []
    for what, how, key, value in (
        ("Status quo", "old queries, old rows", "status_quo", probed.status_quo),
        ("Naive swap", "new queries, old rows", "naive_swap", probed.naive_swap),
        ("Ceiling", "everything encoded again", "ceiling", probed.ceiling),
    ):
        more = value - probed.status_quo
        cells = [
            *scored(value, probed.intervals[key], axis, probed, "reference"),
            NOTHING if key == "status_quo" else signed(more),
            wording.closed(probed, more / gap if gap else None),
            *[""] * (columns - 5),
        ]
        rows.append(row(f"{what}{dim(how)}", cells))
    return rows


def _option(probed: Probed, axis: Axis, shown: tuple[bool, bool], number: int, option: Option) -> str:
    cost, chosen = option.cost, option is probed.chosen
    parts = (wording.family(option.basis, option.side), wording.cascade(option))
    how = "".join(dim(isolated(part)) for part in parts if part)
    mean, low, high = option.gain
    extra = [amount for amount, wanted in zip((cost.gpu_hours, cost.money), shown, strict=True) if wanted]
    gate = f"✓{hidden(' passes:')}" if option.passes else f"✗{hidden(' does not pass:')}"
    cells = [
        *scored(option.score, option.interval, axis, probed, option.strategy),
        f"{signed(mean)} {dim(f'{signed(low)} to {signed(high)}')}",
        wording.closed(probed, option.gap_closed),
        f"{count(cost.encode_rows)} {dim(percent(cost.encode_rows / max(1, probed.rows)))}",
        duration(cost.seconds),
        size(cost.bytes),
        *(NOTHING if amount is None else money(amount) for amount in extra),
        milliseconds(cost.query_ms),
        f"{gate} {isolated(option.why)}",
    ]
    badge = ' <span class="badge">chosen</span>' if chosen else ""
    head = f'<span class="number">{number}</span> {option.strategy}{badge}{how}'
    return row(head, cells, "chosen" if chosen else "")


def tradeoff(probed: Probed) -> str:
    """The plane of quality and time, drawn for a desk and for a phone; empty without options."""
    if not probed.options:
        return ""
    title = (
        f"{probed.metric} of {count(len(probed.options), 'option')} against the time to build each, with the "
        f"status quo at {score(probed.status_quo)} and the ceiling at {score(probed.ceiling)}"
    )
    named = _leading(probed)
    wide = charts.scatter(title, _spots(probed, named), levels(probed), (1130, 460))
    narrow = charts.scatter(title, _spots(probed, named[:1]), levels(probed), (380, 440))
    legend = "".join(
        f'<li><svg viewBox="0 0 16 16" aria-hidden="true">{charts.mark(kind, (8, 8))}</svg>{said}</li>'
        for kind, said in STRATEGIES.items()
        if any(option.strategy == kind for option in probed.options)
    )
    return figure(
        f'<ul class="legend">{legend}<li>filled: passes, hollow: does not; ring: the verdict</li></ul>'
        f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>',
        f"Higher is better, further left is cheaper: {isolated(probed.metric)} with 95 % intervals against "
        "the time to build it on this machine. Numbers are those of the table above; a point without one had "
        "no room for it. What a cascade adds to every query is in the table only.",
        probed,
    )


def _spots(probed: Probed, named: Sequence[Option]) -> list[Spot]:
    """The verdict first, then what has a name, so that these find the best places."""

    def spot(number: int, o: Option) -> Spot:
        has_name, chosen = any(o is one for one in named), o is probed.chosen
        texts = (f"{number} {_short(o)}", str(number)) if has_name else (str(number),)
        said = (
            f"{number}. {wording.name(o)}: {score(o.score)} ({span(o.interval)}), {duration(o.cost.seconds)}"
        )
        return Spot(o.strategy, o.cost.seconds, o.score, o.interval, o.passes, chosen, texts, has_name, said)

    spots = [spot(number, option) for number, option in _numbered(probed)]
    return sorted(spots, key=lambda s: (not s.chosen, not s.far))


def _leading(probed: Probed) -> list[Option]:
    """What deserves a name: the verdict, the first of each strategy, and what no faster one beats."""
    order = [option for _, option in _numbered(probed)]
    kept = [probed.chosen] if probed.chosen else []
    for option in order:
        rivals = [o for o in order if o is not option and o.cost.seconds <= option.cost.seconds]
        first = next(o for o in order if o.strategy == option.strategy)
        unbeaten = option.passes and all(o.score < option.score for o in rivals if o.passes)
        if option is not probed.chosen and (option is first or unbeaten):
            kept.append(option)
    return kept


def _short(option: Option) -> str:
    """The name on one line of a chart: what is too long is cut out of the basis."""
    basis = wording.family(option.basis, option.side).replace(" + side features", " + side")
    rest = len(wording.cascade(option)) + len(option.strategy)
    room = max(8, _LONGEST_NAME - rest)
    cut = basis if len(basis) <= room else f"{basis[: room - 1]}…"
    return ", ".join(part for part in (f"{option.strategy} {cut}".strip(), wording.cascade(option)) if part)
