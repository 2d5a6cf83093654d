"""How results look on a terminal: plain tables that can be read, grepped and copied."""

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from flows.ingest import IngestReport
    from tasks.probed import Option, Probed
    from tasks.reader import Found

_EVERY_SECONDS = 10.0


def table(rows: Sequence[dict[str, Any]], *, empty: str = "nothing") -> str:
    """Rows as aligned columns: numbers to the right, long texts cut to the terminal's width."""
    if not rows:
        return f"({empty})"
    names = list(rows[0])
    cells = [[cell(row[n]) for n in names] for row in rows]
    room = max(40, shutil.get_terminal_size((120, 24)).columns)
    widths = _fitted([max(len(n), *(len(c[i]) for c in cells)) for i, n in enumerate(names)], names, room)
    numeric = [all(isinstance(row[n], int | float) or row[n] is None for row in rows) for n in names]
    lines = [_line(names, widths, numeric), _line(["-" * w for w in widths], widths, numeric)]
    lines += [_line(c, widths, numeric) for c in cells]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """One value on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple) and len(value) > 4:
        head = ", ".join(cell(v) for v in value[:3])
        return f"[{head}, … {len(value)} values]"
    return " ".join(str(value).split())


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} PB"


def lines(sentences: Iterable[str]) -> None:
    """Print what a person should know, one a line."""
    for sentence in sentences:
        print(sentence)


def ingest_sentences(name: str, report: "IngestReport") -> list[str]:
    """What an ingest did, for a person."""
    changes = f"{report.added:,} added, {report.updated:,} updated, {report.deleted:,} deleted"
    known = (
        f" ({report.rejected_known:,} known from before, not tried again)" if report.rejected_known else ""
    )
    said = [
        f"{name}{' (dry run)' if report.dry_run else ''}: {report.seen:,} items seen: {changes}, "
        f"{report.unchanged:,} unchanged, "
        f"{report.rejected:,} rejected{known}",
    ]
    if report.dry_run:
        said.append(f"{report.encoded:,} items to encode; nothing was written")
    elif report.encoded:
        rate = f" at {report.encoded / report.encode_seconds:.0f}/s" if report.encode_seconds else ""
        said.append(f"{report.encoded:,} items encoded{rate}, {report.chunks:,} chunks written")
    else:
        said.append("nothing had to be encoded")
    said.append(f"version {report.version}, space {report.space_id}, {report.seconds:.1f} s")
    return said + [f"note: {n}" for n in report.notes]


def hit_rows(found: "Found") -> list[dict[str, Any]]:
    """Hits as rows of a table for a person."""
    rows = []
    for hit in found.hits:
        row: dict[str, Any] = {"rank": hit.rank, "score": round(hit.score, 4), "item": hit.item_id}
        if found.modality == "audio":
            row["seconds"] = f"{hit.chunk_start / 1000:.1f}–{hit.chunk_end / 1000:.1f}"
        rows.append({**row, "text": hit.text} if found.modality == "text" else {**row, "uri": hit.uri})
    return rows


def probe_sentences(found: "Probed") -> list[str]:
    """What was compared, for a person."""
    tiers = {
        "judged": "judged queries",
        "label": f"items of one label ({found.label})",
        "neighbours": "the new encoder's own neighbours: what is preserved, not whether it is better",
    }
    return [
        f"{found.collection}: {found.from_space} → {found.to_space} ({found.to_encoder})",
        f"{found.metric} by {tiers[found.tier]}: {found.queries:,} held-out queries, {found.gallery:,} "
        f"held-out rows, {found.pairs:,} other pairs to fit on, of {found.rows:,} rows",
    ]


def option_rows(found: "Probed") -> list[dict[str, Any]]:
    """The options beside status quo, naive swap and ceiling, as rows of a table."""
    marks = [
        ("status quo (old query, old rows)", found.status_quo, "status_quo"),
        ("naive swap (new query, old rows)", found.naive_swap, "naive_swap"),
    ]
    rows = [_mark(found, named, score, key) for named, score, key in marks]
    rows += [_option(option, option is found.chosen) for option in found.options]
    return [*rows, _mark(found, "ceiling (all encoded anew)", found.ceiling, "ceiling")]


def _mark(found: "Probed", named: str, score: float, key: str) -> dict[str, Any]:
    interval = found.intervals.get(key)
    return {
        "option": named,
        "score": round(score, 3),
        "95 %": f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else "",
        "gap closed": "",
        "encode": "",
        "seconds": "",
        "ms a query": "",
        "passes": "",
    }


def _option(option: "Option", chosen: bool) -> dict[str, Any]:
    basis = f" {option.basis}{' + side' if option.side else ''}" if option.basis else ""
    cascade = f", cascade {option.cascade}" if option.cascade else ""
    return {
        "option": f"{'→ ' if chosen else ''}{option.strategy}{basis}{cascade}",
        "score": round(option.score, 3),
        "95 %": f"{option.interval[0]:.3f}–{option.interval[1]:.3f}",
        "gap closed": "" if option.gap_closed is None else f"{option.gap_closed:.0%}",
        "encode": f"{option.cost.encode_rows:,}",
        "seconds": f"{option.cost.seconds:,.0f}",
        "ms a query": f"{option.cost.query_ms:,.1f}",
        "passes": "yes" if option.passes else "no",
    }


def next_command(command: str) -> None:
    """The next sensible command."""
    print(f"next: {command}")


class ShownProgress:
    """Items done and durable, against a total that does not move: a bar, or a line every 10 s."""

    def __init__(self, done: str = "encoded", stream: TextIO | None = None) -> None:
        self._verb = done
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._total, self._what = 0, ""
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int, durable: int, what: str = "items") -> None:
        if total == 0:
            return
        if (total, what) != (self._total, self._what):  # a run of several stages shows one after the other
            self._total, self._what, self._started = total, what, time.monotonic()
            self._last = self._started
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        if self._stream.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, unit=f" {what}", file=self._stream, leave=False)
            self._bar.n = done
            self._bar.set_postfix_str(f"{durable:,} durable")
            if durable == total:
                self._bar.close()
            return
        now = time.monotonic()
        if now - self._last >= _EVERY_SECONDS or durable == total:
            rate = done / max(now - self._started, 1e-9)
            left = "" if done == total else f", {(total - done) / max(rate, 1e-9):.0f} s left"
            print(
                f"{self._verb} {done:,} of {total:,} {what}, {durable:,} durable, {rate:.0f}/s{left}"
                if what == "items"
                else f"{done:,} of {total:,} {what}{left}",
                file=self._stream,
                flush=True,
            )
            self._last = now


def _fitted(widths: list[int], names: list[str], room: int) -> list[int]:
    """Column widths cut down, the widest first, until the line fits; never below its name or 8."""
    fitted = list(widths)
    while sum(fitted) + 2 * (len(fitted) - 1) > room:
        widest = max(range(len(fitted)), key=lambda i: fitted[i] - max(8, len(names[i])))
        if fitted[widest] <= max(8, len(names[widest])):
            break
        fitted[widest] -= 1
    return fitted


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    shown = []
    for text, width, right in zip(cells, widths, numeric, strict=True):
        short = text if len(text) <= width else text[: width - 1] + "…"
        shown.append(short.rjust(width) if right else short.ljust(width))
    return "  ".join(shown).rstrip()
