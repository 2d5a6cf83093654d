"""What each verb takes on the command line, in the order in which its `--help` shows it."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class _Argument:
    names: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class _OneOf:
    """Options of which at most one can be given."""

    choices: tuple[_Argument, ...]


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """Let the parser of a verb take what that verb takes."""
    for one in _TAKEN[verb]:
        if isinstance(one, _Argument):
            parser.add_argument(*one.names, **one.options)
            continue
        group = parser.add_mutually_exclusive_group()
        for choice in one.choices:
            group.add_argument(*choice.names, **choice.options)


def _taken(*names: str, **options: Any) -> _Argument:
    return _Argument(names, options)


def _flag(*names: str, help: str) -> _Argument:
    return _taken(*names, action="store_true", help=help)


def _yes(help: str) -> _Argument:
    return _flag("--yes", "-y", help=help)


def _one_of(*choices: _Argument) -> _OneOf:
    return _OneOf(choices)


def _pinned(text: str) -> tuple[int, int | None]:
    release, at, version = text.partition("@")
    if not release.isdecimal() or (at and not version.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected a release N, or N@V with a version, got {text!r}")
    return _positive(release), _positive(version) if version else None


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return number


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _budget(text: str) -> tuple[str, float]:
    """An amount and what it is of: rows, seconds or GPU-seconds."""
    found = _BUDGET.fullmatch(text)
    if found is None or float(found["amount"]) <= 0:
        raise argparse.ArgumentTypeError(f"expected 500rows, 10m, 2h or 2gpuh, got {text!r}")
    unit, factor = _UNITS[found["unit"]]
    return unit, float(found["amount"]) * factor


def _cost(text: str) -> tuple[str, float]:
    """An amount of money, or a time."""
    found = _BUDGET.fullmatch(text)
    if text.replace(".", "", 1).isdecimal():
        return "money", float(text)
    if found is None or _UNITS[found["unit"]][0] != "seconds" or float(found["amount"]) <= 0:
        raise argparse.ArgumentTypeError(f"expected money, or a time as 90s, 10m, 2h, got {text!r}")
    return _budget(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


_BUDGET = re.compile(r"(?P<amount>\d+(\.\d+)?)(?P<unit>rows|s|m|h|gpuh)")
_UNITS = {
    "rows": ("rows", 1.0),
    "s": ("seconds", 1.0),
    "m": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "gpuh": ("gpu_seconds", 3600.0),
}

_COLLECTION = _taken("collection", help="a collection of evervec.yaml")
_ONE_OR_ALL = _taken("collection", nargs="?", help="one collection; all if left out")
_DRY_RUN = _flag("--dry-run", "-n", help="say what would be done, do nothing")
_WAIT = _taken("--wait", type=_seconds, default=0.0, metavar="S", help="wait S seconds for another writer")
_COMPLETE = _flag("--complete", help="first encode the items that lack a vector there")
_EVEN_INCOMPLETE = _yes("even if items lack one there")

_STRATEGIES = ("reuse", "bridge", "map", "reencode")
_MEASURE = (
    _taken("--to", metavar="ENC", required=True, help="the encoder of evervec.yaml to upgrade to"),
    _taken("--sample", type=_positive, metavar="N", help="items to measure with (4,000)"),
    _taken("--queries", type=Path, metavar="F.jsonl", help='{"query": "...", "relevant": [ids]} a line'),
    _taken("--label", metavar="SQL", help="a column, or expression: items of one label belong together"),
    _taken(
        "--families",
        choices=("all", "linear"),
        default="all",
        help="bases to try; linear: quick (all)",
    ),
    _taken("--cascade", type=_count, metavar="N", help="with cascades of N only (50, 100 and 200)"),
    _taken("--max-cost", type=_cost, metavar="X", help="money (by price_per_hour:), or 90s, 10m, 2h"),
    _taken("--max-query-ms", type=_seconds, metavar="MS", help="what may be added to a query (500)"),
)

_TAKEN: dict[str, tuple[_Argument | _OneOf, ...]] = {
    "init": (
        _DRY_RUN,
        _taken("folder", nargs="?", type=Path, metavar="DIR", help="default: this folder"),
    ),
    "demo": (
        _DRY_RUN,
        _taken("folder", nargs="?", type=Path, metavar="DIR", default=Path("demo"), help="default: ./demo"),
        _flag("--full", help="6,000 documents on Ray instead of 1,500 in-process"),
    ),
    "ingest": (
        _COLLECTION,
        _DRY_RUN,
        _taken("--limit", type=_positive, metavar="N", help="pull at most N items; nothing is deleted then"),
        _WAIT,
        _yes("delete even if much or all would go"),
    ),
    "status": (
        _ONE_OR_ALL,
        _taken("--as-of", type=_positive, metavar="V", help="as it was at version V"),
    ),
    "search": (
        _COLLECTION,
        _taken("query", nargs="?", help="a text"),
        _taken("-k", type=_positive, default=10, metavar="K", help="items to find (10)"),
        _taken("--image", type=Path, metavar="F", help="search with an image instead"),
        _taken("--audio", type=Path, metavar="F", help="search with a sound instead"),
        _taken("--queries", type=Path, metavar="F.jsonl", help='many at once: {"query": "..."} a line'),
        _taken(
            "--mode",
            choices=("vector", "text", "hybrid"),
            default="vector",
            help="rank by meaning, by words, or by both (vector)",
        ),
        _taken("--where", metavar="SQL", help='only chunks for which this holds, e.g. "price < 20"'),
        _taken(
            "--release",
            type=_pinned,
            metavar="N[@V]",
            help="a release that is not live, or as it was at version V",
        ),
        _flag("--open", help="show the hits in the browser"),
    ),
    "sql": (
        _taken("--as-of", type=_positive, metavar="V", help="the views as they were at version V"),
        _taken("query", help="one SELECT or EXPLAIN"),
        _taken(
            "--format",
            choices=("table", "json", "csv", "parquet"),
            default="table",
            help="how rows are printed (table)",
        ),
    ),
    "history": (_COLLECTION,),
    "errors": (_COLLECTION,),
    "retry": (_COLLECTION, _DRY_RUN, _WAIT),
    "promote": (
        _COLLECTION,
        _DRY_RUN,
        _WAIT,
        _taken("release", type=_positive, help="its number; see `evervec history`"),
        _COMPLETE,
        _EVEN_INCOMPLETE,
    ),
    "rollback": (_COLLECTION, _DRY_RUN, _WAIT, _COMPLETE, _EVEN_INCOMPLETE),
    "probe": (
        _COLLECTION,
        *_MEASURE,
        _flag("--samples", help="put texts of sample queries and hits into the report"),
        _flag("--open", help="show the report in the browser"),
    ),
    "upgrade": (
        _COLLECTION,
        _DRY_RUN,
        _WAIT,
        *_MEASURE,
        _one_of(
            _taken(
                "--strategy", choices=("auto", *_STRATEGIES), default="auto", help="one that must pass (auto)"
            ),
            _taken("--force-strategy", choices=_STRATEGIES, metavar="S", help="one, whatever was measured"),
        ),
        _flag("--rechunk", help="with reencode: cut the items anew, as evervec.yaml says now"),
        _flag("--no-promote", help="build and verify; the live release stays"),
        _yes("encode everything anew if that is the verdict; force"),
    ),
    "backfill": (
        _COLLECTION,
        _DRY_RUN,
        _WAIT,
        _taken("--budget", type=_budget, metavar="B", help="500rows, 10m, 2h or 2gpuh (all that is left)"),
        _taken(
            "--order",
            metavar="O",
            default="asked",
            help="asked, residual, newest, random, sql:EXPR (asked)",
        ),
    ),
    "maintain": (
        _COLLECTION,
        _DRY_RUN,
        _WAIT,
        _flag("--rebuild-index", help="make the indexes anew from Parquet"),
        _flag("--purge", help="make deletion real: earlier versions cannot be read any more"),
        _yes("purge without asking"),
    ),
    "doctor": (
        _ONE_OR_ALL,
        _DRY_RUN,
        _WAIT,
        _flag("--deep", help="decode every page and compare every vector"),
        _flag("--repair", help="mend what can be mended from copies"),
        _yes("with --repair: let go of data files that are damaged"),
    ),
    "export": (
        _COLLECTION,
        _DRY_RUN,
        _taken("path", type=Path, metavar="PATH", help="a folder that is not there yet"),
        _taken("--to", choices=("parquet", "delta", "lance"), required=True, help="in which format"),
        _taken("--as-of", type=_positive, metavar="V", help="the collection as it was at version V"),
        _yes("replace an earlier export"),
    ),
    "import": (
        _COLLECTION,
        _DRY_RUN,
        _taken(
            "path",
            type=Path,
            metavar="PATH",
            help="a Parquet or JSONL file, a folder of Parquet, or an export",
        ),
        _taken("--id", metavar="COL", help="the column that names each item"),
        _taken("--vector", metavar="COL", help="the column of the vectors"),
        _one_of(
            _taken("--text", metavar="COL", help="the column of the texts"),
            _taken("--uri", metavar="COL", help="where there is no text: the column of the places"),
        ),
        _taken("--chunk", metavar="COL", help="rows are chunks: the column of their numbers"),
        _taken("--attributes", default="", metavar="A,B", help="further columns to keep"),
        _one_of(
            _taken("--encoder", metavar="ENC", help="the encoder of evervec.yaml that made the vectors"),
            _taken("--space", metavar="NAME", help="their space, if that encoder is not at hand"),
        ),
        _WAIT,
        _yes("even if they are a little off the encoder's own"),
    ),
    "deploy": (_DRY_RUN, _yes("take over another project's deployment")),
}
