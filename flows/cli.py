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
from typing import Any, ClassVar, NoReturn

from flows.arguments import add_arguments
from flows.quiet import quiet_libraries
from flows.verbs import changing, reading, starting, upgrading

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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As ever, but an optional positional may stand after options (Python 3.12 has learned that)."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            optional = not action.option_strings and action.nargs == "?"
            if optional and rest and not rest[0].startswith("-") and getattr(found, action.dest) is None:
                setattr(found, action.dest, self._get_values(action, [rest.pop(0)]))
        return found, rest

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
    "search": ("the nearest items to a text, image or sound", reading.search),
    "sql": ("one read-only DuckDB query over the collections", reading.sql),
    "history": ("the versions of a collection", reading.history),
    "errors": ("what was rejected, at which stage, and why", reading.errors),
    "retry": ("try rejected items again, e.g. after a fix", changing.retry),
    "probe": ("measure what a new encoder would give, and what it would cost", upgrading.probe),
    "upgrade": ("change the encoder: measure, build, verify, switch", upgrading.upgrade),
    "backfill": ("encode mapped rows natively, the most valuable first", upgrading.backfill),
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
    for name, (what, run) in VERBS.items():
        verb = found.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        verb.set_defaults(run=run)
        _add_globals(verb, top=False)
        add_arguments(verb, name)
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
