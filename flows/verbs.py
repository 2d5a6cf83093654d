"""The verbs of the command line: what each prints. They import what they need when they run."""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.releases import Switched
    from tasks.project import Project
    from tasks.reader import Found


def init(options: argparse.Namespace) -> int:
    """Write a commented evervec.yaml."""
    from flows.settings import FILE, TEMPLATE, SettingsError

    directory: Path = options.directory / (options.folder or "")
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


def demo(options: argparse.Namespace) -> int:
    """Tell the whole story."""
    from flows.demo import demo as told

    steps = told(
        options.directory / options.folder, full=options.full, dry_run=options.dry_run, quiet=options.json
    )
    if options.json:
        print(json.dumps({"steps": steps}, default=str))
    return 0


def ingest(options: argparse.Namespace) -> int:
    """Bring a collection up to date with its source."""
    return _ingest(options, retry=False)


def _ingest(options: argparse.Namespace, *, retry: bool) -> int:
    from flows.ingest import IngestRequest
    from flows.runs import run_ingest
    from flows.show import ShownProgress, ingest_sentences, lines, next_command

    project = _project(options)
    name = options.collection
    if retry:
        request = IngestRequest(name, wait=options.wait, dry_run=options.dry_run, retry=True)
    else:
        request = IngestRequest(name, options.limit, options.wait, options.yes, options.dry_run)
    report = run_ingest(project, request, ShownProgress())
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    lines(ingest_sentences(name, report))
    if report.dry_run:
        next_command(f"evervec {_where(options)}{'retry' if retry else 'ingest'} {name}")
    elif report.rejected:
        next_command(f"evervec {_where(options)}errors {name}")
    else:
        next_command(f'evervec {_where(options)}search {name} "a question"')
    return 0


def status(options: argparse.Namespace) -> int:
    """Show how collections stand."""
    from flows.show import next_command, size, table
    from tasks.status import status as state_of

    project = _project(options)
    names = [options.collection] if options.collection else list(project.collections)
    if options.as_of and not options.collection:
        raise _usage("a version is of one collection: evervec status COLLECTION --as-of V")
    found = [state_of(project, name, options.as_of) for name in names]
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
        next_command(f"evervec {_where(options)}ingest {empty}")
    elif bad:
        next_command(f"evervec {_where(options)}errors {bad}")
    elif found:
        next_command(f'evervec {_where(options)}search {found[0].collection} "a question"')
    return 0


def _share(status: Any) -> str:
    if not status.live or not status.chunks:
        return ""
    own = next(s for s in status.spaces if s["space_id"] == status.live["space_id"])
    return f"{own['encoded'] / status.chunks:.0%}"


def search(options: argparse.Namespace) -> int:
    """Find the nearest items to one text, or to many."""
    from flows.show import hit_rows, next_command, table
    from tasks import reader

    project = _project(options)
    if (options.query is None) == (options.queries is None):
        raise _usage("give one QUERY, or --queries FILE.jsonl")
    queries = [options.query] if options.query is not None else _queries(options.queries)
    pinned = reader.Pinned(*options.release) if options.release else None
    with reader.open(project) as lake:
        found = [
            lake.search(
                options.collection, q, options.k, mode=options.mode, where=options.where, release=pinned
            )
            for q in queries
        ]
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
    next_command(f'evervec {_where(options)}sql "SELECT item_id, text FROM {options.collection} LIMIT 5"')
    return 0


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
    queries = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    queries.append(_query_of(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise _usage(f"--queries {path}: {why}; expected a text file with one JSON object a line") from None
    if not queries:
        raise _usage(f"--queries {path} holds no queries")
    return queries


def _query_of(path: Path, number: int, line: str) -> str:
    try:
        query = json.loads(line)["query"]
    except (ValueError, KeyError, TypeError):
        query = None
    if not isinstance(query, str):
        raise _usage(f'--queries {path}, line {number}: expected {{"query": "..."}}')
    return query


def sql(options: argparse.Namespace) -> int:
    """Run one read-only query."""
    from flows.show import table
    from tasks import reader

    with reader.open(_project(options)) as lake:
        result = lake.sql(options.query, options.as_of)
        if options.format == "parquet" and not options.json:
            return _as_parquet(result)
        rows = result.to_pylist()
        if options.json:
            only = next(iter(lake.bound.values())) if len(lake.bound) == 1 else lake.bound
            print(json.dumps({"rows": _plain(rows), "version": only}, default=str))
            return 0
    if options.format == "json":
        print(json.dumps(_plain(rows), default=str))
    elif options.format == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(result.column_names)
        writer.writerows([row[name] for name in result.column_names] for row in rows)
    elif result.column_names[:2] == ["explain_key", "explain_value"]:
        print("\n".join(row["explain_value"] for row in rows))
    else:
        print(table(rows, empty="no rows"))
    return 0


def _as_parquet(result: "pa.Table") -> int:
    from storage.parquet import serialized

    if sys.stdout.isatty():
        raise _usage("--format parquet writes bytes: give it a file, as in  evervec sql ... > rows.parquet")
    sys.stdout.buffer.write(serialized(result))
    return 0


def _plain(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def history(options: argparse.Namespace) -> int:
    """List the versions of a collection."""
    from flows.show import next_command, table
    from storage import arrays
    from tasks import reader

    with reader.open(_project(options)) as lake:
        snapshot = lake.snapshot(options.collection)
        rows = [
            {**row, "kept": snapshot.kept(row["version"])} for row in arrays.rows(snapshot.history())[::-1]
        ]
    shown_releases = (
        [
            {
                "release": r.release,
                "space": r.space_id,
                "strategy": r.strategy,
                "state": "retired" if r.retired else "live" if r.release == live else "kept",
                "live since version": r.version,
            }
            for r, live in ((r, snapshot.head.live_release) for r in snapshot.head.releases)
        ]
        if snapshot.head
        else []
    )
    if options.json:
        print(json.dumps({"versions": rows, "releases": shown_releases}, default=str))
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
        "release",
        "kept",
        "run_id",
    )
    print(table([{k: row[k] for k in shown} for row in rows], empty="no versions yet"))
    if len(shown_releases) > 1:
        print("\n" + table(shown_releases))
    next_command(f"evervec {_where(options)}{'status' if rows else 'ingest'} {options.collection}")
    return 0


def errors(options: argparse.Namespace) -> int:
    """List the rejects of a collection."""
    from flows.show import next_command, table
    from tasks.status import rejects

    rows = rejects(_project(options), options.collection)
    if options.json:
        print(json.dumps({"rejects": rows}, default=str))
        return 0
    shown = [{"item": r["item_id"] or r["uri"], "stage": r["stage"], "reason": r["reason"]} for r in rows]
    print(table(shown, empty="no rejects"))
    if rows:
        print("an item is tried again as soon as its content changes, and now with retry")
        next_command(f"evervec {_where(options)}retry {options.collection}")
    return 0


def retry(options: argparse.Namespace) -> int:
    """Try the rejects of a collection again."""
    return _ingest(options, retry=True)


def promote(options: argparse.Namespace) -> int:
    """Make a release live."""
    from tasks.releases import promote as make_live

    project = _project(options)
    if options.complete and not options.dry_run:
        _complete(options, project, options.release)
    moved = make_live(project, options.collection, options.release, yes=options.yes, dry_run=options.dry_run)
    return _switched(options, moved)


def rollback(options: argparse.Namespace) -> int:
    """Make the release before the live one live again."""
    from tasks import releases

    project = _project(options)
    if options.complete and not options.dry_run:
        _complete(options, project, releases.before_live(project, options.collection))
    moved = releases.rollback(project, options.collection, yes=options.yes, dry_run=options.dry_run)
    return _switched(options, moved)


def _complete(options: argparse.Namespace, project: "Project", release: int) -> None:
    from flows.complete import complete
    from flows.show import ShownProgress

    done = complete(project, options.collection, release, ShownProgress(), wait=options.wait)
    if not options.json:
        print(f"{done.counts.encoded:,} items encoded into the space of release {release}")


def _switched(options: argparse.Namespace, moved: "Switched") -> int:
    from flows.show import next_command

    if options.json:
        print(json.dumps({"live": moved.live, "previous": moved.previous, "version": moved.version}))
        return 0
    name = options.collection
    if moved.live == moved.previous:
        print(f"{name}: release {moved.live} is live already")
    elif options.dry_run:
        print(f"{name}: release {moved.live} would be live instead of {moved.previous}")
    else:
        print(f"{name}: release {moved.live} is live (before: {moved.previous}), version {moved.version}")
    next_command(f'evervec {_where(options)}search {name} "a question"')
    return 0


def maintain(options: argparse.Namespace) -> int:
    """Compact, index anew, let go what is not retained, sweep; or purge."""
    from flows.maintain import MaintainRequest
    from flows.maintain import maintain as body
    from flows.show import lines, next_command, size

    if options.purge and options.rebuild_index:
        raise _usage("a purge makes every index anew anyway: give --purge or --rebuild-index, not both")
    request = MaintainRequest(
        options.collection, options.rebuild_index, options.purge, options.wait, options.yes, options.dry_run
    )
    report = body(_project(options), request)
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    said = report.done or ("nothing to do: the collection is as maintenance would leave it",)
    lines(f"{report.collection}{' (dry run)' if report.dry_run else ''}: {sentence}" for sentence in said)
    lines(f"pending: {sentence}; the disk keeps them until it ends" for sentence in report.pending)
    if not report.dry_run:
        print(
            f"{size(report.bytes_before)} in {report.files_before:,} files before, "
            f"{size(report.bytes_after)} in {report.files_after:,} after"
        )
        print(f"version {report.version}; versions from {report.readable_from} on can be read")
    flags = " --rebuild-index" * options.rebuild_index + " --purge --yes" * options.purge
    verb = "maintain" if report.dry_run else "doctor"
    next_command(f"evervec {_where(options)}{verb} {report.collection}{flags * report.dry_run}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Examine collections and say what is wrong, and what mends it."""
    from flows.doctor import DoctorRequest
    from flows.doctor import doctor as examine
    from flows.show import lines, next_command

    if options.yes and not options.repair:
        raise _usage("--yes lets a repair go of damaged data files: give it with --repair")
    request = DoctorRequest(
        options.collection, options.deep, options.repair, options.wait, options.yes, options.dry_run
    )
    report = examine(_project(options), request)
    code = 5 if report.findings else 0
    if options.json:
        print(json.dumps(asdict(report)))
        return code
    lines(f"repaired: {sentence}" for sentence in report.repaired)
    for finding in report.findings:
        print(f"{finding.path}\n    {finding.what}\n    repair: {finding.repair}")
    lines(f"notice: {n.path}: {n.what}; {n.repair}" for n in report.notices)
    name = ", ".join(report.collections)
    count = len(report.findings)
    print(f"{name}: {count} finding{'s' * (count > 1)}" if count else f"{name}: all is well")
    first = options.collection or report.collections[0] if report.collections else ""
    next_command(
        f"evervec {_where(options)}{'doctor' if report.findings else 'status'} {first}".rstrip()
        + (" --repair" if report.findings and not options.repair else "")
    )
    return code


def export(options: argparse.Namespace) -> int:
    """Write a collection's vectors for other tools and other lakes."""
    from flows.export import ExportRequest
    from flows.export import export as write
    from flows.show import lines, next_command

    request = ExportRequest(
        options.collection, options.to, options.path, options.as_of, options.yes, options.dry_run
    )
    report = write(_project(options), request)
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    linked = f", {report.linked} files linked, not copied" if report.linked else ""
    print(
        f"{options.collection}: {'would write' if report.dry_run else 'wrote'} {report.rows:,} chunks of "
        f"{report.items:,} items (version {report.version}, {report.space_id}) to {options.path} as "
        f"{report.to}{linked}"
    )
    lines(report.notes)
    next_command(f"evervec {_where(options)}status {options.collection}")
    return 0


def import_vectors(options: argparse.Namespace) -> int:
    """Bring vectors that were made elsewhere."""
    from flows.imports import ImportRequest
    from flows.imports import import_vectors as bring
    from flows.show import ShownProgress, lines, next_command
    from tasks.imports import Given

    given = Given(
        path=options.path,
        id=options.id,
        vector=options.vector,
        text=options.text,
        uri=options.uri,
        chunk=options.chunk,
        attributes=tuple(n for n in options.attributes.split(",") if n),
        encoder=options.encoder,
        space=options.space,
    )
    name = options.collection
    request = ImportRequest(name, given, options.wait, options.yes, options.dry_run)
    report = bring(_project(options), request, ShownProgress("compared"))
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    print(
        f"{name}{' (dry run)' if report.dry_run else ''}: {report.rows:,} rows, {report.items:,} items: "
        f"{report.imported:,} imported ({report.added:,} new), {report.unchanged:,} unchanged, "
        f"{report.rejected:,} rejected; release {report.release}, {report.space_id}"
    )
    lines(report.notes)
    if report.rejected and not report.dry_run:
        next_command(f"evervec {_where(options)}errors {name}")
    elif not report.live and not report.dry_run:
        next_command(f"evervec {_where(options)}promote {name} {report.release}")
    else:
        next_command(f"evervec {_where(options)}status {name}")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Register the deployments with the Prefect server."""
    from flows.deployed import deploy as register
    from flows.settings import prefect_api_url
    from flows.show import next_command

    project = _project(options)
    url = prefect_api_url()
    if url is None and not options.dry_run:
        raise _usage(
            "no Prefect server is configured. Start one:  prefect server start\n"
            "then:  export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    names = register(project.root, dry_run=options.dry_run, yes=options.yes)
    if options.json:
        print(json.dumps({"deployments": names}))
        return 0
    print(f"{'would register' if options.dry_run else 'registered'} {', '.join(names)} for {project.root}")
    next_command(
        f"evervec {_where(options)}deploy" if options.dry_run else "prefect worker start --pool evervec"
    )
    return 0


def _where(options: argparse.Namespace) -> str:
    """The `-C DIR` that the next command needs too."""
    return "" if options.directory == Path() else f"-C {options.directory} "


def _project(options: argparse.Namespace) -> "Project":
    from flows.settings import load_project

    return load_project(options.directory)


def _usage(message: str) -> Exception:
    from flows.settings import SettingsError

    return SettingsError(message)
