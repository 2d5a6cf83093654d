"""Verbs that leave the lake as it is: what is asked of it, and what is written elsewhere."""

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.verbs.invocation import project_of, search_of, usage, where

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.project import Project
    from tasks.questions import Query
    from tasks.reader import Found


def status(options: argparse.Namespace) -> int:
    """Show how collections stand."""
    from flows.show import next_command, size, table
    from tasks.status import status as state_of

    project = project_of(options)
    names = [options.collection] if options.collection else list(project.collections)
    if options.as_of and not options.collection:
        raise usage("a version is of one collection: evervec status COLLECTION --as-of V")
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
        next_command(f"evervec {where(options)}ingest {empty}")
    elif bad:
        next_command(f"evervec {where(options)}errors {bad}")
    elif found:
        next_command(search_of(options, project, found[0].collection))
    return 0


def _share(status: Any) -> str:
    if not status.live or not status.chunks:
        return ""
    covered = float(status.live["coverage"])
    return f"{covered:.0%}" if covered in (0.0, 1.0) else f"{min(covered, 0.999):.1%}"


def search(options: argparse.Namespace) -> int:
    """Find the nearest items to one text, image or sound, or to many texts."""
    from flows.show import next_command
    from tasks import reader

    project = project_of(options)
    queries = _asked(options)
    pinned = reader.Pinned(*options.release) if options.release else None
    with reader.open(project) as lake:
        found = [
            lake.search(
                options.collection, q, options.k, mode=options.mode, where=options.where, release=pinned
            )
            for q in queries
        ]
    if options.json:
        _print_json(options, queries, found)
    else:
        _print_hits(options, queries, found)
    if options.open:
        _open_page(project, options.collection, queries[0], found[0])
    if not options.json:
        column = "uri" if found and found[0].modality != "text" else "text"
        next_command(
            f'evervec {where(options)}sql "SELECT item_id, {column} FROM {options.collection} LIMIT 5"'
        )
    return 0


def _asked(options: argparse.Namespace) -> "list[Query]":
    from tasks.questions import MediaQuery

    given = [n for n in ("query", "image", "audio", "queries") if getattr(options, n) is not None]
    if len(given) != 1:
        raise usage("give one QUERY, or --image FILE, or --audio FILE, or --queries FILE.jsonl")
    if options.queries is not None:
        if options.open:
            raise usage("--open shows one search; leave out --queries")
        return list(_queries(options.queries))
    if options.query is not None:
        return [options.query]
    return [MediaQuery(options.image, "image") if options.image else MediaQuery(options.audio, "audio")]


def _print_json(options: argparse.Namespace, queries: "list[Query]", found: "list[Found]") -> None:
    results = [_hits(f) for f in found]
    head = asdict(found[0]) if found else {}
    common = {k: head.get(k) for k in ("release", "space_id", "strategy")}
    took = round(sum(f.milliseconds for f in found), 3)
    if options.queries is None:
        print(json.dumps({**common, "hits": results[0], "milliseconds": took}))
    else:
        both = [{"query": q, "hits": h} for q, h in zip(queries, results, strict=True)]
        print(json.dumps({**common, "results": both, "milliseconds": took}))


def _print_hits(options: argparse.Namespace, queries: "list[Query]", found: "list[Found]") -> None:
    from flows.show import hit_rows, table

    for query, one in zip(queries, found, strict=True):
        if options.queries is not None:
            print(f"\n{query}")
        print(table(hit_rows(one), empty="no hits"))
    if found:
        print(
            f"release {found[0].release}, space {found[0].space_id}, "
            f"{sum(f.milliseconds for f in found):.0f} ms with loading the encoder"
        )


def _open_page(project: "Project", collection: str, query: "Query", found: "Found") -> None:
    """Write the page and show it; where there is no browser, its path is enough."""
    import webbrowser

    from tasks import page

    path = project.page(collection)
    page.write(path, page.page(project, collection, query, found))
    print(f"page: {path}", file=sys.stderr)
    webbrowser.open(path.as_uri())


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
    hits = [{k: getattr(h, k) for k in keys} for h in found.hits]
    if found.modality == "audio":
        for hit in hits:
            hit |= {"start_seconds": hit["chunk_start"] / 1000, "end_seconds": hit["chunk_end"] / 1000}
    return hits


def _queries(path: Path) -> list[str]:
    queries = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    queries.append(_query_of(path, number, line))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise usage(f"--queries {path}: {why}; expected a text file with one JSON object a line") from None
    if not queries:
        raise usage(f"--queries {path} holds no queries")
    return queries


def _query_of(path: Path, number: int, line: str) -> str:
    try:
        query = json.loads(line)["query"]
    except (ValueError, KeyError, TypeError):
        query = None
    if not isinstance(query, str):
        raise usage(f'--queries {path}, line {number}: expected {{"query": "..."}}')
    return query


def sql(options: argparse.Namespace) -> int:
    """Run one read-only query."""
    from flows.show import table
    from tasks import reader

    with reader.open(project_of(options)) as lake:
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
        raise usage("--format parquet writes bytes: give it a file, as in  evervec sql ... > rows.parquet")
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

    with reader.open(project_of(options)) as lake:
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
    next_command(f"evervec {where(options)}{'status' if rows else 'ingest'} {options.collection}")
    return 0


def errors(options: argparse.Namespace) -> int:
    """List the rejects of a collection."""
    from flows.show import next_command, table
    from tasks.status import rejects

    rows = rejects(project_of(options), options.collection)
    if options.json:
        print(json.dumps({"rejects": rows}, default=str))
        return 0
    shown = [{"item": r["item_id"] or r["uri"], "stage": r["stage"], "reason": r["reason"]} for r in rows]
    print(table(shown, empty="no rejects"))
    if rows:
        print("an item is tried again as soon as its content changes, and now with retry")
        next_command(f"evervec {where(options)}retry {options.collection}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a collection's vectors for other tools and other lakes."""
    from flows.export import ExportRequest
    from flows.export import export as write
    from flows.show import lines, next_command

    request = ExportRequest(
        options.collection, options.to, options.path, options.as_of, options.yes, options.dry_run
    )
    report = write(project_of(options), request)
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
    next_command(f"evervec {where(options)}status {options.collection}")
    return 0
