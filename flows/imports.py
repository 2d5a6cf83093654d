"""import: vectors that were made elsewhere, and exports, go into a collection. The steps are in `tasks`."""

import time
import uuid
from dataclasses import dataclass

from tasks import import_rows, import_windows, imports, steps
from tasks.imports import Given
from tasks.progress import Progress
from tasks.project import Project


@dataclass(frozen=True)
class ImportRequest:
    """What was asked for, beside the project."""

    collection: str
    given: Given
    wait: float = 0.0
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class ImportReport:
    """What one import did.

    `rows` are those of the table, `chunks` the vectors that were written; all else counts items: `imported`
    got vectors or other attributes (`added` are new among them), `unchanged` had them already. `live` says
    whether readers get the release now.
    """

    run_id: str
    version: int
    release: int
    space_id: str
    live: bool
    rows: int
    items: int
    imported: int
    added: int
    unchanged: int
    rejected: int
    chunks: int
    seconds: float
    notes: tuple[str, ...] = ()
    dry_run: bool = False


def import_vectors(project: Project, request: ImportRequest, progress: Progress) -> ImportReport:
    """Bring a table's vectors into a collection; running it again changes nothing.

    Raises an error of `tasks`, `encoders` or `storage`; of what the table alone can tell before anything
    is written.
    """
    started = time.monotonic()
    run_id = uuid.uuid4().hex[:12]
    name = request.collection
    with steps.lease(project, name, wait=request.wait, dry_run=request.dry_run) as place:
        job = imports.check(project, name, request.given)
        gathered = import_rows.gather(job, place.spool)
        import_rows.verify(job, gathered, yes=request.yes)
        landed = import_windows.land(
            project, job, gathered, place.lease, run_id, progress, dry_run=request.dry_run
        )
    return ImportReport(
        run_id=run_id,
        version=landed.version,
        release=job.release.release,
        space_id=job.release.space_id,
        live=job.live,
        rows=gathered.rows,
        items=landed.items,
        imported=landed.added + landed.updated,
        added=landed.added,
        unchanged=landed.unchanged,
        rejected=landed.rejected,
        chunks=landed.chunks,
        seconds=round(time.monotonic() - started, 3),
        notes=(*gathered.notes, *_notes(job, landed)),
        dry_run=request.dry_run,
    )


def _notes(job: imports.Job, landed: import_windows.Landed) -> list[str]:
    notes = []
    if landed.encoded_kept:
        notes.append(f"{landed.encoded_kept:,} items keep the vectors that were encoded here")
    if not job.live:
        notes.append(
            f"release {job.release.release} is not live: readers get it with "
            f"evervec promote {job.collection} {job.release.release}"
        )
    if not job.release.encoder:
        notes.append(
            f"the encoder of {job.release.space_id} is not at hand: no text can be searched for in it"
        )
    return notes
