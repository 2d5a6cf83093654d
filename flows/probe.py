"""probe: measure what every way to a new encoder would give on the collection's own data; changes nothing."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from storage.snapshot import Snapshot
from tasks import reports
from tasks.probe import ProbeAsk, probe
from tasks.probed import Probed
from tasks.progress import Progress
from tasks.project import Project
from tasks.targets import target_of


@dataclass(frozen=True)
class ProbeReport:
    """What was measured, and where the page about it lies."""

    probed: Probed
    page: str


def measure(project: Project, collection: str, ask: ProbeAsk, progress: Progress) -> ProbeReport:
    """Measure, and write the report. Raises an error of `tasks`, `encoders` or `storage`."""
    project.collection(collection)
    snapshot = Snapshot.open(project.lake / collection)
    target = target_of(project, snapshot, ask.to)
    with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
        probed = probe(project, snapshot, target, ask, Path(folder), progress)
    return ProbeReport(probed, reports.save(snapshot.root, probed))
