"""doctor: examine collections, mend them if asked to, and compare the canaries of their encoders."""

from dataclasses import dataclass

from storage import doctor as storage_doctor
from storage.findings import Finding
from storage.repair import repair as mended
from tasks import canaries
from tasks.project import Project


@dataclass(frozen=True)
class DoctorRequest:
    """What was asked for, beside the project: all collections, if none is named."""

    collection: str | None = None
    deep: bool = False
    repair: bool = False
    wait: float = 0.0
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class DoctorReport:
    """What is wrong after all that was done, what is merely left over, and what was repaired."""

    collections: tuple[str, ...]
    findings: tuple[Finding, ...]
    notices: tuple[Finding, ...]
    repaired: tuple[str, ...]


def doctor(project: Project, request: DoctorRequest) -> DoctorReport:
    """Examine one collection, or all. Raises `NothingThere`, `LakeBusy` (only to repair)."""
    names = [request.collection] if request.collection else list(project.collections)
    found: list[Finding] = []
    done: list[str] = []
    for name in names:
        project.collection(name)
        if request.repair and not request.dry_run:
            repaired = mended(project.lake, name, drop=request.yes, deep=request.deep, wait=request.wait)
            done += [f"{name}: {sentence}" for sentence in repaired.done]
            found += repaired.left
        else:
            found += storage_doctor.examine(project.lake, name, deep=request.deep)
        found += canaries.check(project, name)
    return DoctorReport(
        tuple(names),
        tuple(f for f in found if f.severity == "damage"),
        tuple(f for f in found if f.severity == "notice"),
        tuple(done),
    )
