"""The command line. Imports only what the verb at hand needs: `--help` must answer at once."""

import argparse
import difflib
import gc
import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from flows.quiet import quiet_libraries

if TYPE_CHECKING:
    from flows.ingest import IngestReport
    from tasks.progress import Progress
    from tasks.project import Project
    from tasks.reader import Found

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
    kept = options.directory.resolve() / ".evervec" / "last-error.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("".join(traceback.format_exception(error)))
    return (
        f"unexpected {type(error).__name__}: {error}. The details for a bug report are in {kept}",
        1,
    )


def _fail(options: argparse.Namespace, message: str, code: int) -> int:
    print(f"evervec: {message}", file=sys.stderr)
    if options.json:
        print(json.dumps({"error": message, "exit_code": code}))
    return code


def _init(options: argparse.Namespace) -> int:
    from flows.settings import FILE, TEMPLATE, SettingsError

    directory: Path = options.folder or options.directory
    path = directory / FILE
    if path.exists():
        raise SettingsError(f"{path} exists already and is left as it is; edit it, or init another folder")
    if options.dry_run:
        print(
            json.dumps({"path": str(path)}) if options.json else TEMPLATE,
            end="\n" if options.json else "",
        )
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE)
    ignore = directory / ".gitignore"
    kept = ignore.read_text().splitlines() if ignore.exists() else []
    ignore.write_text("\n".join([*kept, *(x for x in ("lake/", ".evervec/") if x not in kept)]) + "\n")
    if options.json:
        print(json.dumps({"path": str(path)}))
    else:
        where = "" if directory == Path() else f"-C {directory} "
        print(f"wrote {path}: put text files into {directory / 'docs'}, or edit it to point at yours")
        print(f"next: evervec {where}ingest docs")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from flows.demo import demo

    steps = demo(options.folder, full=options.full, dry_run=options.dry_run, quiet=options.json)
    if options.json:
        print(json.dumps({"steps": steps}, default=str))
    return 0


def _ingest(options: argparse.Namespace) -> int:
    from flows.ingest import IngestRequest
    from flows.show import ShownProgress, lines, next_command

    project = _project(options)
    request = IngestRequest(options.collection, options.limit, options.wait, options.yes, options.dry_run)
    report = run_ingest(project, request, ShownProgress())
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    lines(ingest_sentences(options.collection, report))
    where = "" if options.directory == Path() else f"-C {options.directory} "
    if report.dry_run:
        next_command(f"evervec {where}ingest {options.collection}")
    elif report.rejected:
        next_command(f"evervec {where}errors {options.collection}")
    else:
        next_command(f'evervec {where}search {options.collection} "a question"')
    return 0


def run_ingest(project: "Project", request: Any, progress: "Progress") -> "IngestReport":
    """The ingest as a Prefect run where a server is configured, else as the plain function it is."""
    from flows.ingest import ingest
    from flows.settings import prefect_api_url

    if prefect_api_url() is None or request.dry_run:
        return ingest(project, request, progress)
    from flows import deployed

    return deployed.ingest(
        project=str(project.root),
        collection=request.collection,
        limit=request.limit,
        wait=request.wait,
        yes=request.yes,
    )


def ingest_sentences(name: str, report: "IngestReport") -> list[str]:
    """What an ingest did, for a person."""
    would = "would be " if report.dry_run else ""
    changes = f"{report.added:,} added, {report.updated:,} updated, {report.deleted:,} deleted"
    known = (
        f" ({report.rejected_known:,} known from before, not tried again)" if report.rejected_known else ""
    )
    said = [
        f"{name}: {report.seen:,} items seen: {would}{changes}, {report.unchanged:,} unchanged, "
        f"{report.rejected:,} rejected{known}",
    ]
    if report.encoded:
        rate = f" at {report.encoded / report.encode_seconds:.0f}/s" if report.encode_seconds else ""
        said.append(f"{report.encoded:,} items {would}encoded{rate}, {report.chunks:,} chunks written")
    elif not report.dry_run:
        said.append("nothing had to be encoded")
    said.append(f"version {report.version}, space {report.space_id}, {report.seconds:.1f} s")
    return said + [f"note: {n}" for n in report.notes]


def _status(options: argparse.Namespace) -> int:
    from flows.show import next_command, size, table
    from tasks.status import status

    project = _project(options)
    names = [options.collection] if options.collection else list(project.collections)
    found = [status(project, name) for name in names]
    if options.json:
        shown = [asdict(s) for s in found]
        print(json.dumps(shown[0] if options.collection else {"collections": shown}))
        return 0
    rows = [
        {
            "collection": s.collection,
            "version": s.version,
            "items": s.items,
            "chunks": s.chunks,
            "rejects": s.rejects,
            "live space": s.live["space_id"] if s.live else "",
            "native": f"{_share(s)}",
            "size": size(s.bytes),
        }
        for s in found
    ]
    print(table(rows, empty="no collections"))
    empty = next((s.collection for s in found if s.version == 0), None)
    bad = next((s.collection for s in found if s.rejects), None)
    if empty:
        next_command(f"evervec ingest {empty}")
    elif bad:
        next_command(f"evervec errors {bad}")
    elif found:
        next_command(f'evervec search {found[0].collection} "a question"')
    return 0


def _share(status: Any) -> str:
    if not status.live or not status.chunks:
        return ""
    own = next(s for s in status.spaces if s["space_id"] == status.live["space_id"])
    return f"{own['encoded'] / status.chunks:.0%}"


def _search(options: argparse.Namespace) -> int:
    from flows.show import next_command, table
    from tasks import reader

    project = _project(options)
    if (options.query is None) == (options.queries is None):
        raise _usage("give one QUERY, or --queries FILE.jsonl")
    queries = [options.query] if options.query is not None else _queries(options.queries)
    with reader.open(project) as lake:
        found = [lake.search(options.collection, q, options.k) for q in queries]
    if options.json:
        results = [_hits(f) for f in found]
        head = asdict(found[0]) if found else {}
        common = {k: head.get(k) for k in ("release", "space_id", "strategy")}
        took = round(sum(f.milliseconds for f in found), 3)
        if options.query is not None:
            print(json.dumps({**common, "hits": results[0], "milliseconds": took}))
        else:
            both = [{"query": q, "hits": h} for q, h in zip(queries, results, strict=True)]
            print(json.dumps({**common, "results": both, "milliseconds": took}))
        return 0
    for query, one in zip(queries, found, strict=True):
        if options.query is None:
            print(f"\n{query}")
        print(table(hit_rows(one), empty="no hits"))
    if found:
        print(
            f"release {found[0].release}, space {found[0].space_id}, "
            f"{sum(f.milliseconds for f in found):.0f} ms with loading the encoder"
        )
    next_command(f'evervec sql "SELECT item_id, text FROM {options.collection} LIMIT 5"')
    return 0


def hit_rows(found: "Found") -> list[dict[str, Any]]:
    """Hits as rows of a table for a person."""
    return [
        {"rank": h.rank, "score": round(h.score, 4), "item": h.item_id, "text": h.text} for h in found.hits
    ]


def _hits(found: "Found") -> list[dict[str, Any]]:
    keys = (
        "rank",
        "item_id",
        "chunk_no",
        "score",
        "origin",
        "text",
        "uri",
        "chunk_start",
        "chunk_end",
    )
    return [{k: getattr(h, k) for k in keys} for h in found.hits]


def _queries(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise _usage(
            f"--queries {path}: {error.strerror}; expected a file with one JSON object a line"
        ) from None
    queries = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            queries.append(str(json.loads(line)["query"]))
        except (ValueError, KeyError, TypeError):
            raise _usage(f'--queries {path}, line {number}: expected {{"query": "..."}}') from None
    if not queries:
        raise _usage(f"--queries {path} holds no queries")
    return queries


def _sql(options: argparse.Namespace) -> int:
    from flows.show import table
    from tasks import reader

    with reader.open(_project(options)) as lake:
        result = lake.sql(options.query)
        rows = result.to_pylist()
        if options.json:
            versions = {n: lake.snapshot(n).version for n in lake.bound}
            only = next(iter(versions.values())) if len(versions) == 1 else versions
            print(json.dumps({"rows": rows, "version": only}, default=str))
            return 0
    if options.format == "json":
        print(json.dumps(rows, default=str))
    elif options.format == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.column_names)
        writer.writerows(row.values() for row in rows)
    elif result.column_names[:2] == ["explain_key", "explain_value"]:
        print("\n".join(row["explain_value"] for row in rows))
    else:
        print(table(rows, empty="no rows"))
    return 0


def _history(options: argparse.Namespace) -> int:
    from flows.show import next_command, table
    from storage.sql import version_row
    from tasks import reader

    with reader.open(_project(options)) as lake:
        rows = [version_row(c) for c in reversed(lake.snapshot(options.collection).commits)]
    if options.json:
        print(json.dumps({"versions": rows}, default=str))
        return 0
    shown = (
        "version",
        "verb",
        "committed_at",
        "added",
        "updated",
        "deleted",
        "rejected",
        "items",
        "chunks",
        "run_id",
    )
    print(table([{k: row[k] for k in shown} for row in rows], empty="no versions yet"))
    next_command(f"evervec {'status' if rows else 'ingest'} {options.collection}")
    return 0


def _errors(options: argparse.Namespace) -> int:
    from flows.show import next_command, table
    from tasks.status import rejects

    rows = rejects(_project(options), options.collection)
    if options.json:
        print(json.dumps({"rejects": rows}, default=str))
        return 0
    shown = [{"item": r["item_id"] or r["uri"], "stage": r["stage"], "reason": r["reason"]} for r in rows]
    print(table(shown, empty="no rejects"))
    if rows:
        print("an item is tried again as soon as its content changes")
        next_command(f"evervec ingest {options.collection}")
    return 0


def _deploy(options: argparse.Namespace) -> int:
    from flows.deployed import deploy
    from flows.settings import prefect_api_url
    from flows.show import next_command

    project = _project(options)
    url = prefect_api_url()
    if url is None and not options.dry_run:
        raise _usage(
            "no Prefect server is configured. Start one:  prefect server start\n"
            "then:  export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    names = deploy(project.root, dry_run=options.dry_run)
    if options.json:
        print(json.dumps({"deployments": names}))
        return 0
    print(f"{'would register' if options.dry_run else 'registered'} {', '.join(names)} for {project.root}")
    next_command("evervec deploy" if options.dry_run else "prefect worker start --pool evervec")
    return 0


def _project(options: argparse.Namespace) -> "Project":
    from flows.settings import load_project

    return load_project(options.directory)


def _usage(message: str) -> Exception:
    from flows.settings import SettingsError

    return SettingsError(message)


class _Parser(argparse.ArgumentParser):
    """argparse, with one line and a suggestion where it would print its whole usage."""

    def error(self, message: str) -> NoReturn:
        given = message.partition("invalid choice: '")[2].partition("'")[0]
        near = difflib.get_close_matches(given, VERBS, n=1) if given else []
        if given:
            message = f"there is no {given!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"verbs: {', '.join(VERBS)}"
            )
        print(f"{self.prog}: {message}\nsee: {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


VERBS = {
    "init": ("write a commented evervec.yaml", _init),
    "demo": ("the whole story on real data of this machine", _demo),
    "ingest": ("bring a collection up to date with its source", _ingest),
    "status": ("coverage, live release, size", _status),
    "search": ("the nearest items to a text", _search),
    "sql": ("one read-only DuckDB query over the collections", _sql),
    "history": ("the versions of a collection", _history),
    "errors": ("what was rejected, at which stage, and why", _errors),
    "deploy": ("register the scheduled runs with a Prefect server", _deploy),
}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="evervec",
        description="Keep your embeddings when the model changes: a versioned embedding pipeline.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_globals(parser, top=True)
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=_Parser)
    made = {}
    for name, (what, run) in VERBS.items():
        made[name] = verbs.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
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


def _add_options(verbs: "dict[str, _Parser]") -> None:
    for name in ("ingest", "search", "history", "errors"):
        verbs[name].add_argument("collection", help="a collection of evervec.yaml")
    verbs["status"].add_argument("collection", nargs="?", help="one collection; all if left out")
    for name in ("init", "demo", "ingest", "deploy"):
        verbs[name].add_argument(
            "--dry-run", "-n", action="store_true", help="say what would be done, do nothing"
        )
    verbs["init"].add_argument("folder", nargs="?", type=Path, metavar="DIR", help="default: this folder")
    demo = verbs["demo"]
    demo.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", default=Path("demo"), help="default: ./demo"
    )
    demo.add_argument(
        "--full", action="store_true", help="6,000 documents on Ray instead of 1,500 in-process"
    )
    ingest = verbs["ingest"]
    ingest.add_argument(
        "--limit", type=_positive, metavar="N", help="pull at most N items; nothing is deleted then"
    )
    ingest.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait S seconds for another writer"
    )
    ingest.add_argument("--yes", "-y", action="store_true", help="delete even if much or all would go")
    search = verbs["search"]
    search.add_argument("query", nargs="?", help="a text")
    search.add_argument("-k", type=_positive, default=10, metavar="K", help="items to find (10)")
    search.add_argument(
        "--queries", type=Path, metavar="F.jsonl", help='many at once: {"query": "..."} a line'
    )
    sql = verbs["sql"]
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
