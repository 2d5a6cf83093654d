"""A probe in plain words: numbers with their units, names of options, and the sentences of the verdict."""

import math

from tasks.probed import Interval, Option, Probed

NOTHING = "–"
"""Stands where there is no number."""


def score(value: float) -> str:
    """A score with three decimals; a score that is not a number is `NOTHING`."""
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else NOTHING


def span(interval: Interval) -> str:
    """The two ends of an interval of scores."""
    return f"{score(interval[0])}–{score(interval[1])}"


def signed(value: float) -> str:
    """A difference of scores."""
    return score(value) if value < 0 else f"+{score(value)}"


def percent(share: float | None) -> str:
    """A share of one; a decimal where it is small."""
    if share is None or not math.isfinite(share):
        return NOTHING
    if 0 < abs(share) < 0.0005:
        return "< 0.1\u00a0%" if share > 0 else "> −0.1\u00a0%"
    shown = f"{share:.1%}" if 0 < abs(share) < 0.0995 else f"{share:.0%}"
    return shown.replace("-", "−").replace("%", "\u00a0%")


def count(number: int, noun: str = "", plural: str = "") -> str:
    """A number with its thousands apart, and its noun in the right form."""
    if not noun:
        return f"{number:,}"
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return _small(seconds * 1000, "ms") if 0 < seconds < 1 else _small(seconds, "s")
    minutes, hours, days = round(seconds / 60), round(seconds / 3600), round(seconds / 86_400)
    if seconds < 600:
        rest = round(seconds)
        return f"{rest // 60} min" + (f" {rest % 60} s" if rest % 60 else "")
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if hours < 10 * 24:
        return count(hours // 24, "day") + (f" {hours % 24} h" if hours % 24 else "")
    return count(days, "day")


def milliseconds(value: float) -> str:
    """What a query takes longer."""
    return duration(value / 1000) if value >= 1000 else _small(value, "ms")


def size(number: int) -> str:
    """Bytes for people."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5:
            return _small(amount, unit)
        amount /= 1000
    return f"{amount:,.1f} PB"


def money(amount: float) -> str:
    """An amount in the currency of the configured price."""
    return f"{amount:,.2f}"


def family(basis: str | None, side: bool) -> str:
    """A basis family; empty if there is none."""
    return f"{basis or ''}{' + side features' if side else ''}"


def name(option: Option) -> str:
    """An option on one line."""
    parts = (option.strategy, family(option.basis, option.side), cascade(option))
    return ", ".join(part for part in parts if part)


def cascade(option: Option) -> str:
    """How many candidates are ranked again; empty if none."""
    return f"cascade {option.cascade:,}" if option.cascade else ""


def closed(probed: Probed, share: float | None) -> str:
    """A share of the gap; `NOTHING` where the ceiling is not above the status quo, so that there is none."""
    return percent(share) if probed.ceiling > probed.status_quo else NOTHING


def tier(probed: Probed) -> str:
    """What counts as a right answer, in a few words."""
    if probed.tier == "judged":
        return "judged queries"
    if probed.tier == "label":
        return f"same {probed.label or 'label'}, a proxy"
    return "the new encoder's own neighbours, preservation only"


def measured_on(probed: Probed) -> str:
    """Sample size and tier, to stand under numbers."""
    queries = count(probed.queries, "held-out query", "held-out queries")
    return f"{queries}, {count(probed.gallery, 'held-out row')}; right answers: {tier(probed)}"


def headline(probed: Probed) -> str:
    """What to do, in one sentence."""
    said, new = probed.verdict, probed.to_encoder
    if said.strategy == "stay":
        return f"Stay with {probed.from_model} for now."
    again = f", then encode the best {count(said.cascade)} of a search and rank them again"
    again = again if said.cascade else ""
    return {
        "reuse": f"Switch to {new}: it can search the stored rows as they are.",
        "bridge": f"Switch to {new} and keep the stored rows: map each query into their space{again}.",
        "map": f"Switch to {new} and map the stored rows into its space{again}.",
        "reencode": f"Switch to {new} and encode everything again.",
    }[said.strategy]


def gives(probed: Probed) -> str:
    """What the verdict gives, beside what the ceiling would."""
    chosen, metric, now = probed.chosen, probed.metric, score(probed.status_quo)
    if probed.tier == "neighbours":
        metric += " (agreement with the new encoder)"
    if chosen is None:
        if probed.ceiling <= probed.status_quo:
            more = (
                f"Encoding everything again would not find more: {metric} is {score(probed.ceiling)} with it"
            )
        else:
            more = f"Encoding everything again would raise {metric} to {score(probed.ceiling)}"
        return f"{more}, and {now} today."
    mean, low, high = chosen.gain
    moves = "rises" if mean > 0 else "falls" if mean < 0 else "goes"
    said = (
        f"{metric} {moves} from {now} to {score(chosen.score)} "
        f"({signed(mean)}, 95 % interval {signed(low)} to {signed(high)})"
    )
    if chosen.strategy == "reencode":
        return f"{said}."
    share = closed(probed, chosen.gap_closed)
    way = "" if share == NOTHING else f", which closes {share} of the gap"
    return f"{said}{way}; encoding everything again would give {score(probed.ceiling)}."


def takes(probed: Probed) -> str:
    """What the verdict costs, beside encoding everything again."""
    chosen = probed.chosen
    if chosen is None:
        return f"Encoding everything again would take {duration(full_seconds(probed))} on this machine."
    cost = chosen.cost
    rows = "no row"
    if cost.encode_rows:
        share = percent(cost.encode_rows / max(1, probed.rows))
        rows = f"{count(cost.encode_rows)} of {count(probed.rows, 'row')} ({share})"
    said = [
        f"It encodes {rows}",
        f"takes {duration(cost.seconds)} on this machine",
        f"adds {size(cost.bytes)}",
    ]
    if cost.money is not None:
        said.append(f"costs {money(cost.money)} at the configured price")
    said.append(f"makes a query {milliseconds(cost.query_ms)} slower" if cost.query_ms else "slows no query")
    full = f"Encoding everything again would take {duration(full_seconds(probed))}."
    return f"{', '.join(said[:-1])} and {said[-1]}." + ("" if chosen.strategy == "reencode" else f" {full}")


def compared(probed: Probed) -> str:
    """What was compared, and on how much."""
    queries = count(probed.queries, "held-out query", "held-out queries")
    verb = "was" if probed.queries == 1 else "were"
    return (
        f"{queries} {verb} asked of {count(probed.gallery, 'held-out row')}; what is fitted was fitted on "
        f"{count(probed.pairs, 'other pair')}. The collection has {count(probed.rows, 'row')} of "
        f"{count(probed.items, 'item')}."
    )


def trust(probed: Probed) -> str:
    """How far the numbers can be trusted, by tier."""
    if probed.tier == "judged":
        return "People judged what the right answers are, so this measures what users find. It decides."
    if probed.tier == "label":
        return (
            f"Rows with the same {probed.label or 'label'} count as right answers. That is a proxy: good for "
            "comparing options, but what users look for may differ. Judged queries (--queries) would decide."
        )
    return (
        "The right answers are what the new encoder itself finds once everything is encoded again. That "
        "measures how much of it is preserved, not whether it is better than the old one: only judged "
        "queries (--queries) or labels (--label) can say so."
    )


def chance(probed: Probed) -> str:
    """What the interval of the verdict's gain says; empty without an option."""
    if probed.chosen is None:
        return ""
    _, low, high = probed.chosen.gain
    if low > 0:
        return "The interval of the gain lies above zero, so the gain is hardly chance."
    if high < 0:
        return "The interval of the gain lies below zero, so this is a loss."
    return "The interval of the gain includes zero: it may be no gain at all."


def full_seconds(probed: Probed) -> float:
    """How long encoding everything again takes: as costed, else by the measured rate."""
    for option in probed.options:
        if option.strategy == "reencode":
            return option.cost.seconds
    return probed.rows / probed.rows_per_second if probed.rows_per_second else math.nan


def _small(amount: float, unit: str) -> str:
    """At most three digits, no zeros at the end."""
    if not math.isfinite(amount):
        return NOTHING
    if 0 < amount < 0.005:
        return f"< 0.01 {unit}"
    digits = 0 if amount >= 99.5 or unit == "B" else 1 if amount >= 9.95 else 2
    shown = f"{amount:,.{digits}f}"
    return f"{shown.rstrip('0').rstrip('.') if digits else shown} {unit}"
