"""backfill: encode the most valuable rows that are still mapped, within a budget."""

import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from flows.ingest import PlainSteps
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import backfill
from tasks.backfill import Budget
from tasks.progress import Progress
from tasks.project import Project


@dataclass(frozen=True)
class BackfillRequest:
    """What was asked for, beside the project."""

    collection: str
    budget: Budget = field(default_factory=Budget)
    order: str = "asked"
    wait: float = 0.0
    dry_run: bool = False


@dataclass(frozen=True)
class BackfillReport:
    """What a backfill did, in rows of `space_id`; coverage is the share of rows encoded natively."""

    collection: str
    space_id: str
    version: int
    reencoded: int
    folded: int
    remaining: int
    rejected: int
    coverage_before: float
    coverage_after: float
    seconds: float
    dry_run: bool = False


def fill(
    project: Project, request: BackfillRequest, progress: Progress, step: PlainSteps | None = None
) -> BackfillReport:
    """Backfill one collection. Raises an error of `tasks`, `encoders` or `storage`."""
    step = step or PlainSteps()
    started = time.monotonic()
    name, root = request.collection, project.lake / request.collection
    project.collection(name)
    if request.dry_run:
        return _forecast(project, request)
    with (
        tempfile.TemporaryDirectory(prefix="evervec-") as folder,
        lock(root, "upgrade", wait=request.wait) as lease,
    ):
        run_id = uuid.uuid4().hex[:12]
        done = step(backfill.backfill)(
            project, name, request.order, request.budget, Path(folder), run_id, lease, progress
        )
    return BackfillReport(collection=name, **vars(done), seconds=round(time.monotonic() - started, 3))


def _forecast(project: Project, request: BackfillRequest) -> BackfillReport:
    snapshot = Snapshot.open(project.lake / request.collection)
    space, live = backfill.space_to_fill(snapshot)
    left = backfill.remaining(snapshot, space, live)
    would = left if request.budget.rows is None else min(left, request.budget.rows)
    now = backfill.coverage(snapshot, space, live)
    return BackfillReport(
        request.collection, space.space_id, snapshot.version, would, 0, left, 0, now, now, 0.0, dry_run=True
    )
