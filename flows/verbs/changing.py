"""Verbs that change a collection: what is in it, which release is live, how it lies there."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.verbs.invocation import project_of, search_of, usage, where

if TYPE_CHECKING:
    from storage.releases import Switched
    from tasks.project import Project


def ingest(options: argparse.Namespace) -> int:
    """Bring a collection up to date with its source."""
    return _ingest(options, retry=False)


def retry(options: argparse.Namespace) -> int:
    """Try the rejects of a collection again."""
    return _ingest(options, retry=True)


def _ingest(options: argparse.Namespace, *, retry: bool) -> int:
    from flows.ingest import IngestRequest
    from flows.runs import run_ingest
    from flows.show import ShownProgress, ingest_sentences, lines, next_command

    project = project_of(options)
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
        next_command(f"evervec {where(options)}{'retry' if retry else 'ingest'} {name}")
    elif report.rejected:
        next_command(f"evervec {where(options)}errors {name}")
    else:
        next_command(search_of(options, project, name))
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
    report = bring(project_of(options), request, ShownProgress("compared"))
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
        next_command(f"evervec {where(options)}errors {name}")
    elif not report.live and not report.dry_run:
        next_command(f"evervec {where(options)}promote {name} {report.release}")
    else:
        next_command(f"evervec {where(options)}status {name}")
    return 0


def promote(options: argparse.Namespace) -> int:
    """Make a release live."""
    from tasks.releases import promote as make_live

    project = project_of(options)
    if options.complete and not options.dry_run:
        _complete(options, project, options.release)
    moved = make_live(project, options.collection, options.release, yes=options.yes, dry_run=options.dry_run)
    return _switched(options, project, moved)


def rollback(options: argparse.Namespace) -> int:
    """Make the release before the live one live again."""
    from tasks import releases

    project = project_of(options)
    if options.complete and not options.dry_run:
        _complete(options, project, releases.before_live(project, options.collection))
    moved = releases.rollback(project, options.collection, yes=options.yes, dry_run=options.dry_run)
    return _switched(options, project, moved)


def _complete(options: argparse.Namespace, project: "Project", release: int) -> None:
    from flows.complete import complete
    from flows.show import ShownProgress

    done = complete(project, options.collection, release, ShownProgress(), wait=options.wait)
    if not options.json:
        print(f"{done.counts.encoded:,} items encoded into the space of release {release}")


def _switched(options: argparse.Namespace, project: "Project", moved: "Switched") -> int:
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
    next_command(search_of(options, project, name))
    return 0


def maintain(options: argparse.Namespace) -> int:
    """Compact, index anew, let go what is not retained, sweep; or purge."""
    from flows.maintain import MaintainRequest
    from flows.maintain import maintain as body
    from flows.show import lines, next_command, size

    if options.purge and options.rebuild_index:
        raise usage("a purge makes every index anew anyway: give --purge or --rebuild-index, not both")
    request = MaintainRequest(
        options.collection, options.rebuild_index, options.purge, options.wait, options.yes, options.dry_run
    )
    report = body(project_of(options), request)
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
    next_command(f"evervec {where(options)}{verb} {report.collection}{flags * report.dry_run}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Examine collections and say what is wrong, and what mends it."""
    from flows.doctor import DoctorRequest
    from flows.doctor import doctor as examine
    from flows.show import lines, next_command

    if options.yes and not options.repair:
        raise usage("--yes lets a repair go of damaged data files: give it with --repair")
    request = DoctorRequest(
        options.collection, options.deep, options.repair, options.wait, options.yes, options.dry_run
    )
    report = examine(project_of(options), request)
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
        f"evervec {where(options)}{'doctor' if report.findings else 'status'} {first}".rstrip()
        + (" --repair" if report.findings and not options.repair else "")
    )
    return code
