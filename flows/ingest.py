"""ingest: pull, diff, encode, commit. The body and its report; the steps are in `tasks`."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from storage.commits import Counts
from tasks import steps
from tasks.errors import RunFailed
from tasks.progress import Progress
from tasks.project import Project

P = ParamSpec("P")
R = TypeVar("R")


class PlainSteps:
    """Calls steps as the functions they are; `flows.deployed` has the one that makes them Prefect tasks."""

    def __call__(self, step: Callable[P, R]) -> Callable[P, R]:
        return step


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did. Counts are of items, but `chunks`; `version` is the head afterwards."""

    run_id: str
    version: int
    space_id: str
    seen: int
    added: int
    updated: int
    deleted: int
    unchanged: int
    rejected: int
    rejected_known: int
    encoded: int
    chunks: int
    seconds: float
    encode_seconds: float
    notes: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class IngestRequest:
    """What was asked for, beside the project."""

    collection: str
    limit: int | None = None
    wait: float = 0.0
    yes: bool = False
    dry_run: bool = False
    retry: bool = False
    """Only items that stand rejected, whether or not they changed; nothing else is touched."""


def ingest(
    project: Project, request: IngestRequest, progress: Progress, step: PlainSteps | None = None
) -> IngestReport:
    """Bring a collection up to date with its source. Raises an error of `tasks`, `encoders` or `storage`."""
    step = step or PlainSteps()
    started = time.monotonic()
    run_id = uuid.uuid4().hex[:12]
    name = request.collection
    with steps.lease(project, name, wait=request.wait, dry_run=request.dry_run) as place:
        job = step(steps.check)(project, name)
        plan = step(steps.pull_and_diff)(
            project, job, place.spool, run_id, request.limit, request.yes, request.retry
        )
        if request.dry_run:
            return _forecast(job, plan, time.monotonic() - started)
        landed = step(steps.encode_and_commit)(project, job, plan, place.lease, progress)
        filled = step(steps.fill_retained)(project, job, place, run_id, progress, request.retry)
        folded = step(steps.fold_kept)(project, job, place, run_id)
        landed.version = max(landed.version, filled.version, folded)
    report = _report(job, plan, landed, time.monotonic() - started, tuple(filled.notes))
    if report.seen and report.rejected == report.seen:
        raise RunFailed(
            f"all {report.seen:,} items of the pull were rejected; see why: evervec errors {name}"
        )
    return report


def _report(
    job: steps.Job,
    plan: steps.Plan,
    landed: steps.Landed,
    seconds: float,
    notes: tuple[str, ...] = (),
    *,
    dry_run: bool = False,
) -> IngestReport:
    counts = landed.counts
    return IngestReport(
        run_id=plan.run_id,
        version=landed.version,
        space_id=job.release.space_id,
        seen=plan.seen,
        added=counts.added,
        updated=counts.updated,
        deleted=counts.deleted,
        unchanged=plan.unchanged,
        rejected=counts.rejected + plan.rejected_known,
        rejected_known=plan.rejected_known,
        encoded=counts.encoded,
        chunks=counts.chunks,
        seconds=round(seconds, 3),
        encode_seconds=round(landed.encode_seconds, 3),
        notes=(*plan.notes, *([job.note] if job.note else ()), *notes),
        dry_run=dry_run,
    )


def _forecast(job: steps.Job, plan: steps.Plan, seconds: float) -> IngestReport:
    """What would happen; which items the encoders would reject only they can tell."""
    would = steps.forecast(plan)
    counts = Counts(
        added=would.added,
        updated=would.updated,
        deleted=len(plan.deleted),
        rejected=len(plan.rejects),
        encoded=plan.to_encode,
    )
    return _report(job, plan, steps.Landed(job.version, counts), seconds, dry_run=True)
