"""The command line. Imports only what the verb at hand needs: `--help` must answer at once."""

import argparse
import contextlib
import difflib
import errno
import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from flows.quiet import quiet_libraries
from flows.verbs import changing, reading, starting

_FULL = (errno.ENOSPC, errno.EDQUOT)

EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 refused (needs --yes, or another
writer holds the collection), 4 the gate said no, 5 integrity finding

first steps: evervec demo              the whole story on real data of this machine
             evervec init              a commented evervec.yaml to start from
"""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    _Parser.given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    # Batches hold many small objects and no cycles: at the default threshold the collector takes
    # a third of a run without changes.
    gc.set_threshold(100_000, 50, 100)
    quiet_libraries()
    try:
        code = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _fail(
            options,
            "interrupted. What was committed stays; the same command goes on from there",
            130,
        )
    except BrokenPipeError:  # `evervec sql ... | head` is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback at a user
        code = _fail(options, *_explained(options, error))
    raise SystemExit(code)


def _explained(options: argparse.Namespace, error: Exception) -> tuple[str, int]:
    """Message and exit code: our own errors speak for themselves, others are kept for a bug report."""
    code = getattr(error, "exit_code", None)
    if code is not None:
        return str(error), int(code)
    if getattr(error, "errno", None) in _FULL or "No space left on device" in str(error):
        return (
            f"the disk is full: {error}. Nothing of the window at hand was kept, what was committed before "
            "stays; make room and run the same command again"
        ), 1
    said = f"unexpected {type(error).__name__}: {error}"
    kept = options.directory.resolve() / ".evervec" / "last-error.txt"
    if kept.parent.parent.is_dir():
        with contextlib.suppress(OSError):  # a project that cannot be written to
            kept.parent.mkdir(exist_ok=True)
            kept.write_text("".join(traceback.format_exception(error)))
            return f"{said}. The details for a bug report are in {kept}", 1
    return said, 1


def _fail(options: argparse.Namespace, message: str, code: int) -> int:
    print(f"evervec: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": message, "exit_code": code}))
    return code


class _Parser(argparse.ArgumentParser):
    """argparse, with one line and a suggestion where it would print its whole usage."""

    given: ClassVar[Sequence[str]] = ()

    def error(self, message: str) -> NoReturn:
        choice = "argument VERB: invalid choice: '"
        given = message.partition(choice)[2].partition("'")[0]
        near = difflib.get_close_matches(given, VERBS, n=1) if given else []
        if given:
            message = f"there is no {given!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
            )
        print(f"{self.prog}: {message}\nsee: {self.prog} --help", file=sys.stderr)
        if "--json" in _Parser.given:
            print(json.dumps({"error": message, "exit_code": 2}))
        raise SystemExit(2)


VERBS = {
    "init": ("write a commented evervec.yaml", starting.init),
    "demo": ("the whole story on real data of this machine", starting.demo),
    "ingest": ("bring a collection up to date with its source", changing.ingest),
    "status": ("coverage, live release, size", reading.status),
    "search": ("the nearest items to a text", reading.search),
    "sql": ("one read-only DuckDB query over the collections", reading.sql),
    "history": ("the versions of a collection", reading.history),
    "errors": ("what was rejected, at which stage, and why", reading.errors),
    "retry": ("try rejected items again, e.g. after a fix", changing.retry),
    "promote": ("make a release the one that readers get", changing.promote),
    "rollback": ("make the release before the live one live again", changing.rollback),
    "maintain": ("compact, make indexes anew, let old versions go, or purge", changing.maintain),
    "doctor": ("verify files, counts, keys, indexes and encoders, or repair", changing.doctor),
    "export": ("write the vectors as Parquet, Delta or Lance", reading.export),
    "import": ("bring vectors that were made elsewhere", changing.import_vectors),
    "deploy": ("register the scheduled runs with a Prefect server", starting.deploy),
}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="evervec",
        description="Keep your embeddings when the model changes: a versioned embedding pipeline.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_globals(parser, top=True)
    found = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    made = {}
    for name, (what, run) in VERBS.items():
        made[name] = found.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        made[name].set_defaults(run=run)
        _add_globals(made[name], top=False)
    _add_options(made)
    _add_exchange(made)
    return parser


def _add_globals(parser: argparse.ArgumentParser, *, top: bool) -> None:
    unset = argparse.SUPPRESS  # after the verb they must not undo what was given before it
    parser.add_argument(
        "-C",
        dest="directory",
        metavar="DIR",
        type=Path,
        default=Path() if top else unset,
        help="run in another project folder",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=False if top else unset,
        help="one JSON object on stdout, all else on stderr",
    )


def _add_options(parsers: "dict[str, _Parser]") -> None:
    for name in ("ingest", "search", "history", "errors", "retry", "promote", "rollback", "maintain"):
        parsers[name].add_argument("collection", help="a collection of evervec.yaml")
    parsers["doctor"].add_argument("collection", nargs="?", help="one collection; all if left out")
    parsers["status"].add_argument("collection", nargs="?", help="one collection; all if left out")
    for name in ("init", "demo", "ingest", "deploy", "retry", "promote", "rollback", "maintain", "doctor"):
        parsers[name].add_argument(
            "--dry-run", "-n", action="store_true", help="say what would be done, do nothing"
        )
    parsers["init"].add_argument("folder", nargs="?", type=Path, metavar="DIR", help="default: this folder")
    demo = parsers["demo"]
    demo.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", default=Path("demo"), help="default: ./demo"
    )
    demo.add_argument(
        "--full", action="store_true", help="6,000 documents on Ray instead of 1,500 in-process"
    )
    ingest = parsers["ingest"]
    ingest.add_argument(
        "--limit", type=_positive, metavar="N", help="pull at most N items; nothing is deleted then"
    )
    ingest.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="S", help="wait S seconds for another writer"
    )
    ingest.add_argument("--yes", "-y", action="store_true", help="delete even if much or all would go")
    for name in ("retry", "maintain", "doctor", "promote", "rollback"):
        parsers[name].add_argument(
            "--wait", type=_seconds, default=0.0, metavar="S", help="wait S seconds for another writer"
        )
    parsers["promote"].add_argument("release", type=_positive, help="its number; see `evervec history`")
    for name in ("promote", "rollback"):
        parsers[name].add_argument(
            "--complete", action="store_true", help="first encode the items that lack a vector there"
        )
        parsers[name].add_argument("--yes", "-y", action="store_true", help="even if items lack one there")
    doctor = parsers["doctor"]
    doctor.add_argument("--deep", action="store_true", help="decode every page and compare every vector")
    doctor.add_argument("--repair", action="store_true", help="mend what can be mended from copies")
    doctor.add_argument(
        "--yes", "-y", action="store_true", help="with --repair: let go of data files that are damaged"
    )
    maintain = parsers["maintain"]
    maintain.add_argument("--rebuild-index", action="store_true", help="make the indexes anew from Parquet")
    maintain.add_argument(
        "--purge", action="store_true", help="make deletion real: earlier versions cannot be read any more"
    )
    maintain.add_argument("--yes", "-y", action="store_true", help="purge without asking")
    deploy = parsers["deploy"]
    deploy.add_argument("--yes", "-y", action="store_true", help="take over another project's deployment")
    search = parsers["search"]
    search.add_argument("query", nargs="?", help="a text")
    search.add_argument("-k", type=_positive, default=10, metavar="K", help="items to find (10)")
    search.add_argument(
        "--queries", type=Path, metavar="F.jsonl", help='many at once: {"query": "..."} a line'
    )
    search.add_argument(
        "--mode",
        choices=("vector", "text", "hybrid"),
        default="vector",
        help="rank by meaning, by words, or by both (vector)",
    )
    search.add_argument("--where", metavar="SQL", help='only chunks for which this holds, e.g. "price < 20"')
    search.add_argument(
        "--release",
        type=_pinned,
        metavar="N[@V]",
        help="a release that is not live, or as it was at version V",
    )
    parsers["status"].add_argument("--as-of", type=_positive, metavar="V", help="as it was at version V")
    sql = parsers["sql"]
    sql.add_argument("--as-of", type=_positive, metavar="V", help="the views as they were at version V")
    sql.add_argument("query", help="one SELECT or EXPLAIN")
    sql.add_argument(
        "--format",
        choices=("table", "json", "csv", "parquet"),
        default="table",
        help="how rows are printed (table)",
    )


def _add_exchange(parsers: "dict[str, _Parser]") -> None:
    for name in ("export", "import"):
        parsers[name].add_argument("collection", help="a collection of evervec.yaml")
        parsers[name].add_argument(
            "--dry-run", "-n", action="store_true", help="say what would be done, do nothing"
        )
    export = parsers["export"]
    export.add_argument("path", type=Path, metavar="PATH", help="a folder that is not there yet")
    export.add_argument("--to", choices=("parquet", "delta", "lance"), required=True, help="in which format")
    export.add_argument("--as-of", type=_positive, metavar="V", help="the collection as it was at version V")
    export.add_argument("--yes", "-y", action="store_true", help="replace an earlier export")
    imported = parsers["import"]
    imported.add_argument(
        "path", type=Path, metavar="PATH", help="a Parquet or JSONL file, a folder of Parquet, or an export"
    )
    imported.add_argument("--id", metavar="COL", help="the column that names each item")
    imported.add_argument("--vector", metavar="COL", help="the column of the vectors")
    content = imported.add_mutually_exclusive_group()
    content.add_argument("--text", metavar="COL", help="the column of the texts")
    content.add_argument("--uri", metavar="COL", help="where there is no text: the column of the places")
    imported.add_argument("--chunk", metavar="COL", help="rows are chunks: the column of their numbers")
    imported.add_argument("--attributes", default="", metavar="A,B", help="further columns to keep")
    space = imported.add_mutually_exclusive_group()
    space.add_argument("--encoder", metavar="ENC", help="the encoder of evervec.yaml that made the vectors")
    space.add_argument("--space", metavar="NAME", help="their space, if that encoder is not at hand")
    imported.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="S", help="wait S seconds for another writer"
    )
    imported.add_argument(
        "--yes", "-y", action="store_true", help="even if they are a little off the encoder's own"
    )


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
