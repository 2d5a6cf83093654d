"""maintain: compact, index anew, let go what is not retained, sweep; or purge. The body and its report."""

from dataclasses import dataclass

from flows.ingest import PlainSteps
from storage.maintenance import Maintained, Maintenance
from tasks import upkeep
from tasks.project import Project


@dataclass(frozen=True)
class MaintainRequest:
    """What was asked for, beside the project."""

    collection: str
    rebuild_index: bool = False
    purge: bool = False
    wait: float = 0.0
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class MaintainReport:
    """What one maintenance did. `done` are sentences for the person who reads it."""

    collection: str
    version: int
    readable_from: int
    bytes_before: int
    bytes_after: int
    files_before: int
    files_after: int
    done: tuple[str, ...]
    pending: tuple[str, ...] = ()
    dry_run: bool = False


def maintain(project: Project, request: MaintainRequest, step: PlainSteps | None = None) -> MaintainReport:
    """Maintain one collection. Raises an error of `tasks` or `storage`."""
    step = step or PlainSteps()
    name = request.collection
    before = upkeep.size(project, name)
    if request.dry_run:
        work = upkeep.look(project, name, rebuild=request.rebuild_index, purge=request.purge)
        return MaintainReport(
            name, work.version, work.readable_from, before.bytes, before.bytes, before.files, before.files,
            tuple(_would(work)), dry_run=True,
        )  # fmt: skip
    if request.purge:
        done = step(upkeep.purge)(project, name, yes=request.yes, wait=request.wait)
    else:
        done = step(upkeep.carry_out)(project, name, rebuild=request.rebuild_index, wait=request.wait)
    after = upkeep.size(project, name)
    return MaintainReport(
        name, done.version, done.readable_from, before.bytes, after.bytes, before.files, after.files,
        tuple(_did(done, purged=request.purge)), tuple(done.pending),
    )  # fmt: skip


def _would(work: Maintenance) -> list[str]:
    rewritten = sum(len(group.files) for group in work.groups)
    removed = len(work.files) + len(work.tables)
    return [
        sentence
        for applies, sentence in (
            (rewritten, f"{rewritten} data files would be joined into {len(work.groups)}"),
            (work.masks, "the files of masked rows would become one"),
            (work.indexes, f"the index of {', '.join(work.indexes)} would be made anew"),
            (work.retire, f"release {', '.join(str(r.release) for r in work.retire)} would be retired"),
            (
                work.readable_from > work.readable_now,
                f"versions before {work.readable_from} could not be read any more, and their files would go",
            ),
            (removed, f"{removed} files and tables that nobody names would be removed"),
        )
        if applies
    ]


def _did(done: Maintained, *, purged: bool) -> list[str]:
    said = [
        sentence
        for applies, sentence in (
            (done.rewritten, f"{done.rewritten} data files were rewritten into fewer"),
            (done.indexes, f"the index of {', '.join(done.indexes)} was made anew"),
            (done.retired, f"release {', '.join(map(str, done.retired))} was retired"),
            (done.removed, f"{done.removed} files and tables that nobody names were removed"),
        )
        if applies
    ]
    if purged:
        said.append(
            f"what was deleted is gone for good: versions before {done.version} cannot be read any more"
        )
    return said
