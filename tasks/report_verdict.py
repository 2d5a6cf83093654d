"""The first section of the report: what to do, what it gives and costs, and how far to trust that."""

from tasks import wording
from tasks.markup import dim, hidden, isolated, row, table
from tasks.probed import Interval, Option, Probed
from tasks.report_parts import measured_on
from tasks.wording import NOTHING, count, duration, milliseconds, money, percent, score, size, span


def verdict(probed: Probed) -> str:
    """The section as HTML; the headline is its title."""
    beside = probed.chosen or _best(probed)
    notes = "".join(f"<li>{isolated(note)}</li>" for note in probed.notes)
    trust = " ".join((wording.compared(probed), wording.trust(probed), wording.chance(probed)))
    return (
        '<section id="verdict" aria-labelledby="verdict-title">'
        f'<h2 id="verdict-title" class="headline">{isolated(wording.headline(probed))}</h2>\n'
        f"<p>{isolated(wording.gives(probed))}</p>\n<p>{isolated(wording.takes(probed))}</p>\n"
        f"<p>{dim(f'The gate says: {isolated(probed.verdict.reason)}')}</p>\n"
        f'<div class="pair">{_bars(probed, beside)}{_costs(probed, beside)}</div>\n'
        f'<div class="trust {probed.tier}"><p><strong>How far to trust this.</strong> {isolated(trust, 900)}'
        f"</p>{f'<ul>{notes}</ul>' if notes else ''}</div></section>\n"
    )


def _best(probed: Probed) -> Option | None:
    """The best option that does not encode everything, to show where the verdict names none."""
    cheap = [option for option in probed.options if option.strategy != "reencode"]
    return max(cheap, key=lambda option: option.score, default=None)


def _bars(probed: Probed, beside: Option | None) -> str:
    """Scores as bars from nothing, with their intervals."""
    strategy = beside.strategy if beside else "stay"
    found = [("old", "Today", "status quo", probed.status_quo, probed.intervals["status_quo"])]
    if strategy != "reuse":
        swap = probed.naive_swap, probed.intervals["naive_swap"]
        found.insert(0, ("naive", "New encoder, nothing done", "naive swap", *swap))
    if beside and strategy != "reencode":
        what = "The verdict" if probed.chosen else "Best option, not chosen"
        found.append((strategy, what, wording.name(beside), beside.score, beside.interval))
    what = "The verdict: encode all again" if strategy == "reencode" else "Everything encoded again"
    found.append(("ceiling", what, "ceiling", probed.ceiling, probed.intervals["ceiling"]))
    top = max(1e-9, *(end for *_, value, interval in found for end in (value, *interval)))
    rows = (
        row(f"{what}{dim(isolated(note))}", [_bar(value, interval, top), _number(value, interval)], kind)
        for kind, what, note, value, interval in found
    )
    caption = f"What it gives: {isolated(probed.metric)}, with 95 % intervals{measured_on(probed)}"
    return table(caption, ("Search", hidden("As a bar"), "Score"), rows, kind="bars")


def _bar(value: float, interval: Interval, top: float) -> str:
    low, high = (max(0.0, end) / top for end in interval)
    return (
        f'<div><b style="width: {max(0.0, value) / top:.1%}"></b>'
        f'<i style="left: {low:.1%}; width: {high - low:.1%}"></i></div>'
    )


def _number(value: float, interval: Interval) -> str:
    return f"<strong>{score(value)}</strong>{dim(span(interval))}"


def _costs(probed: Probed, beside: Option | None) -> str:
    """Beside encoding everything again; empty if neither was costed."""
    full = next((option for option in probed.options if option.strategy == "reencode"), None)
    shown = [option for option in (beside, full) if option]
    if beside is full:
        shown = shown[:1]
    if not shown:
        return ""
    lines = {
        "Rows to encode": [_rows(option, probed.rows) for option in shown],
        "Time to build": [duration(option.cost.seconds) for option in shown],
        "New data": [size(option.cost.bytes) for option in shown],
        "GPU hours": [NOTHING if o.cost.gpu_hours is None else money(o.cost.gpu_hours) for o in shown],
        "Money": [NOTHING if o.cost.money is None else money(o.cost.money) for o in shown],
        "More time a query": [milliseconds(option.cost.query_ms) for option in shown],
    }
    rows = (row(what, cells) for what, cells in lines.items() if set(cells) != {NOTHING})
    rate = f"rates measured on this machine, {probed.rows_per_second:,.0f} rows encoded a second"
    heads = ["Cost", *(isolated(wording.name(option)) for option in shown)]
    return table(f"What it costs{dim(rate)}", heads, rows, kind="costs")


def _rows(option: Option, rows: int) -> str:
    encoded = option.cost.encode_rows
    return f"{count(encoded)} ({percent(encoded / max(1, rows))})" if encoded else "none"
