"""The command line. Imports only what the verb at hand needs: `--help` must answer at once."""

import argparse
import contextlib
import difflib
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from flows import verbs
from flows.quiet import quiet_libraries

EPILOG = """\
exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 refused (needs --yes, or another
writer holds the collection), 4 the gate said no, 5 integrity finding

first steps: evervec demo              the whole story on real data of this machine
             evervec init              a commented evervec.yaml to start from
"""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
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

    def error(self, message: str) -> NoReturn:
        choice = "argument VERB: invalid choice: '"
        given = message.partition(choice)[2].partition("'")[0]
        near = difflib.get_close_matches(given, VERBS, n=1) if given else []
        if given:
            message = f"there is no {given!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
            )
        print(f"{self.prog}: {message}\nsee: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


VERBS = {
    "init": ("write a commented evervec.yaml", verbs.init),
    "demo": ("the whole story on real data of this machine", verbs.demo),
    "ingest": ("bring a collection up to date with its source", verbs.ingest),
    "status": ("coverage, live release, size", verbs.status),
    "search": ("the nearest items to a text", verbs.search),
    "sql": ("one read-only DuckDB query over the collections", verbs.sql),
    "history": ("the versions of a collection", verbs.history),
    "errors": ("what was rejected, at which stage, and why", verbs.errors),
    "deploy": ("register the scheduled runs with a Prefect server", verbs.deploy),
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
    for name in ("ingest", "search", "history", "errors"):
        parsers[name].add_argument("collection", help="a collection of evervec.yaml")
    parsers["status"].add_argument("collection", nargs="?", help="one collection; all if left out")
    for name in ("init", "demo", "ingest", "deploy"):
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
        "--wait", type=float, default=0.0, metavar="S", help="wait S seconds for another writer"
    )
    ingest.add_argument("--yes", "-y", action="store_true", help="delete even if much or all would go")
    deploy = parsers["deploy"]
    deploy.add_argument("--yes", "-y", action="store_true", help="take over another project's deployment")
    search = parsers["search"]
    search.add_argument("query", nargs="?", help="a text")
    search.add_argument("-k", type=_positive, default=10, metavar="K", help="items to find (10)")
    search.add_argument(
        "--queries", type=Path, metavar="F.jsonl", help='many at once: {"query": "..."} a line'
    )
    sql = parsers["sql"]
    sql.add_argument("query", help="one SELECT or EXPLAIN")
    sql.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="how rows are printed (table)",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
