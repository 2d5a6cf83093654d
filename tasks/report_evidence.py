"""What stands behind the options: families, pairs, backfill, raw scores and sample queries.

Each section is HTML, or an empty string where the probe has nothing for it.
"""

from collections.abc import Sequence

from tasks import charts, wording
from tasks.charts import Axis, Line
from tasks.markup import dim, escaped, hidden, isolated, row, table
from tasks.probed import BackfillCurve, Fitted, Probed, Sample, SampleHit, Scores
from tasks.report_parts import STRATEGIES, figure, levels, measured_on, scored, scrolled
from tasks.wording import NOTHING, count, duration, percent, score, span

_ORIGINS = {
    "old": "old queries, old rows",
    "encoded": "new queries, rows encoded by the new encoder",
    "mapped": "new queries, rows mapped into the new space",
    "bridged": "queries mapped into the old space, old rows",
}
_LONGEST_TEXT = 280
_OPEN_SAMPLES = 3


def families(probed: Probed) -> str:
    """Every basis family that was tried, a table for each direction."""
    if not probed.families:
        return ""
    ends = [value for fitted in probed.families for value in (fitted.score, *fitted.interval)]
    axis = charts.focused_axis("", ends, levels(probed))
    tables = [
        _family_table(probed, direction, axis, [f for f in probed.families if f.direction == direction])
        for direction in dict.fromkeys(fitted.direction for fitted in probed.families)
    ]
    return (
        f"<p>{isolated(probed.metric)} of each family alone, without a cascade, fitted on "
        f"{count(probed.pairs, 'pair')}. The smallest within the 95 % interval of the best is chosen."
        f'{measured_on(probed)}</p><div class="families">{"".join(tables)}</div>'
    )


def _family_table(probed: Probed, direction: str, axis: Axis, tried: Sequence[Fitted]) -> str:
    kind = direction if direction in STRATEGIES else "reference"
    rows = (
        row(
            isolated(wording.family(f.basis, f.side), 80)
            + (' <span class="badge">chosen</span>' if f.chosen else ""),
            [*scored(f.score, f.interval, axis, probed, kind), duration(f.seconds), count(f.parameters)],
            "chosen" if f.chosen else "",
        )
        for f in sorted(tried, key=lambda fitted: -fitted.score)
    )
    strip = hidden("Score between status quo and ceiling")
    heads = ("Family", "Score", strip, "Time to fit", "Parameters")
    said = isolated(STRATEGIES.get(direction, direction))
    return scrolled(table(said, heads, rows), f"Families of {escaped(direction, 40)}")


def pairs(probed: Probed) -> str:
    """How the score of one family grows with the pairs it is fitted on."""
    points = sorted(probed.pair_curve, key=lambda point: point.pairs)
    if not points:
        return ""
    basis, first, last = probed.pair_curve_basis, points[0], points[-1]
    title = (
        f"{probed.metric} of {basis}: {score(first.score)} with {count(first.pairs)} pairs, "
        f"{score(last.score)} with {count(last.pairs)}"
    )
    line = Line([p.pairs for p in points], [p.score for p in points], [p.interval for p in points])
    axis = charts.count_axis("pairs (logarithmic)", [p.pairs for p in points])
    rows = (row(count(p.pairs), [score(p.score), span(p.interval)]) for p in points)
    caption = f"{isolated(probed.metric)} of {isolated(basis)}"
    return figure(
        f'<div class="beside">{charts.curves(title, [line], axis, levels(probed))}'
        f"{table(caption, ('Pairs', 'Score', '95 % interval'), rows)}</div>",
        "Where the curve is flat, more pairs would not help; where it still rises, a larger --sample would.",
        probed,
    )


def backfill(probed: Probed) -> str:
    """Scores while mapped rows are replaced by encoded ones, one curve for each order."""
    curves = sorted((c for c in probed.backfill if c.shares), key=lambda curve: -curve.area)
    if not curves:
        return ""
    title = f"{probed.metric} by the share of encoded rows: " + ", ".join(
        f"{curve.order} with area {score(curve.area)}" for curve in curves
    )
    lines = [Line(curve.shares, curve.scores) for curve in curves]
    chart = charts.curves(title, lines, charts.share_axis("rows encoded"), levels(probed))
    legend = "".join(
        f'<li><svg viewBox="0 0 24 16" aria-hidden="true"><path class="line {charts.line_class(i)}" '
        'd="M1 8h22"/></svg>'
        f"{isolated(curve.order, 80)}, area {score(curve.area)}</li>"
        for i, curve in enumerate(curves)
    )
    return figure(
        f'<div class="beside"><div>{chart}<ul class="legend">{legend}</ul></div>'
        f"{_backfill_table(probed, curves)}</div>",
        "What a backfill gains on its way, by the order in which rows are encoded. The area is the mean "
        "score over the whole way: orders whose areas are alike are equally good.",
        probed,
    )


def _backfill_table(probed: Probed, curves: Sequence[BackfillCurve]) -> str:
    found = [dict(zip(curve.shares, curve.scores, strict=True)) for curve in curves]
    rows = (
        row(percent(share), [score(f[share]) if share in f else NOTHING for f in found])
        for share in sorted({share for curve in curves for share in curve.shares})
    )
    heads = ["Encoded", *(isolated(curve.order, 40) for curve in curves)]
    foot = row("Area", [score(curve.area) for curve in curves])
    caption = f"{isolated(probed.metric)} by the share of encoded rows"
    return scrolled(table(caption, heads, rows, foot=foot), "Table of the backfill")


def scores(probed: Probed) -> str:
    """Why raw scores of hits of different origins must not be compared."""
    shown = [one for one in probed.scores if sum(one.counts)]
    if not shown:
        return ""
    medians = ", ".join(f"{one.origin} with median {score(charts.median(one))}" for one in shown)
    rows = (
        row(
            isolated(one.origin, 40),
            [_ORIGINS.get(one.origin, NOTHING), count(sum(one.counts)), score(charts.median(one))],
        )
        for one in shown
    )
    heads = ("Origin", "Found by", "Hits", "Median score")
    return figure(
        f'<div class="beside">{charts.histograms(f"Distributions of raw scores: {medians}", shown)}'
        f"{table('Raw scores of the first ten hits', heads, rows)}</div>",
        f"The same number means another thing for another origin. {_overlap(shown)}Hits of different origins "
        "are therefore never ranked by raw score, only through the calibrators of a release.",
        probed,
    )


def _overlap(shown: Sequence[Scores]) -> str:
    """The difference in a sentence: how rare a usual score of one origin is among another's."""
    high, low = max(shown, key=charts.median), min(shown, key=charts.median)
    if high is low:
        return ""
    middle = charts.median(high)
    return (
        f"Half of the hits called {isolated(high.origin, 40)} score above {score(middle)}; of those called "
        f"{isolated(low.origin, 40)}, {percent(charts.above(low, middle))} do. "
    )


def samples(probed: Probed) -> str:
    """Some queries, as the old search, the new one and the carried-over one answer them."""
    if not probed.samples:
        return ""
    signs = ""
    if any(hit.relevant is not None for s in probed.samples for hit in (*s.old, *s.new, *s.carried)):
        signs = f"✓ is a right answer ({isolated(wording.tier(probed))}), ✗ a wrong one. "
    shown = "".join(_sample(probed, sample, number) for number, sample in enumerate(probed.samples, 1))
    return (
        f"<p>{count(len(probed.samples), 'query', 'queries')} of {count(probed.queries)}, to look at, not to "
        f"measure with. {signs}Scores of different columns cannot be compared.</p>\n{shown}"
    )


def _sample(probed: Probed, sample: Sample, number: int) -> str:
    asked = "" if sample.query is None else isolated(sample.query, _LONGEST_TEXT)
    if sample.item_id is not None:
        asked += f" {dim(f'item {isolated(sample.item_id, 120)}')}"
    asked = asked or dim("a query whose text was not kept; --samples keeps it")
    how = f"as the verdict says: {isolated(wording.name(probed.chosen))}" if probed.chosen else "not chosen"
    columns = (
        _column("Today", "old queries, old rows", sample.old, sample.new),
        _column("New", "everything encoded again", sample.new, ()),
        _column("Carried over", how, sample.carried, sample.new),
    )
    opened = " open" if number <= _OPEN_SAMPLES else ""
    return (
        f'<details class="sample"{opened}><summary><h3>{number}. {asked}</h3></summary>'
        f'<div class="columns">{"".join(columns)}</div></details>\n'
    )


def _column(title: str, how: str, hits: Sequence[SampleHit], new: Sequence[SampleHit]) -> str:
    if not hits:
        return ""
    known = {hit.item_id for hit in new}
    alike = f"; {sum(hit.item_id in known for hit in hits)} of {len(hits)} as in New" if new else ""
    return f"<div><h4>{title}{dim(f'{how}{alike}')}</h4><ol>{''.join(map(_hit, hits))}</ol></div>"


def _hit(hit: SampleHit) -> str:
    sign = ""
    if hit.relevant is not None:
        sign = f'<span class="yes">✓{hidden("right")}</span> ' if hit.relevant else ""
        sign = sign or f'<span class="no">✗{hidden("wrong")}</span> '
    text = f'<p class="dim">{isolated(hit.text, _LONGEST_TEXT)}</p>' if hit.text is not None else ""
    return f'<li>{sign}{isolated(hit.item_id, 120)} <span class="number">{score(hit.score)}</span>{text}</li>'
