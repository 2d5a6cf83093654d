"""upgrade: probe if none is fresh, gate, build beside the live release, verify, promote."""

import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flows.ingest import PlainSteps
from storage import releases
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import reports, upgrade
from tasks.decision import Wish, decide
from tasks.probe import ProbeAsk
from tasks.progress import Progress
from tasks.project import Project
from tasks.targets import target_of

Promote = Literal["auto", "if_verdict", "never"]
"""`auto`: what was built and verified goes live; `if_verdict`: only if it was not forced."""


@dataclass(frozen=True)
class UpgradeRequest:
    """What was asked for, beside the project."""

    collection: str
    ask: ProbeAsk
    wish: Wish = field(default_factory=Wish)
    rechunk: bool = False
    promote: Promote = "auto"
    wait: float = 0.0
    dry_run: bool = False


@dataclass(frozen=True)
class UpgradeReport:
    """What an upgrade came to. `verdict` is the probe's, `report` where the page about it lies."""

    collection: str
    release: int
    strategy: str
    space_id: str
    basis_id: str | None
    cascade: int
    promoted: bool
    verdict: str
    reason: str
    report: str | None
    version: int
    rows: int
    encoded: int
    mapped: int
    seconds: float
    forced: bool = False
    dry_run: bool = False


def carry_out(
    project: Project, request: UpgradeRequest, progress: Progress, step: PlainSteps | None = None
) -> UpgradeReport:
    """Upgrade one collection. Raises an error of `tasks`, `encoders` or `storage`."""
    step = step or PlainSteps()
    started = time.monotonic()
    name, root = request.collection, project.lake / request.collection
    project.collection(name)
    with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
        if request.dry_run:
            return _forecast(project, request, Path(folder), progress, started)
        with lock(root, "upgrade", wait=request.wait) as lease:
            run_id = uuid.uuid4().hex[:12]
            begun = step(upgrade.begin)(
                project, name, request.ask, request.wish, Path(folder), run_id, lease, progress,
                rechunk=request.rechunk,
            )  # fmt: skip
            if begun.release.version is None:
                step(upgrade.build)(project, begun, Path(folder), lease, progress)
            promote = request.promote == "auto" or (request.promote == "if_verdict" and begun.by_verdict)
            with lock(root, "ingest", wait=request.wait) as arrivals:
                promoted = step(upgrade.finish)(
                    project, begun, Path(folder), arrivals, progress, promote=promote, yes=request.wish.yes
                )
    return _report(project, begun, promoted, time.monotonic() - started)


def _forecast(
    project: Project, request: UpgradeRequest, folder: Path, progress: Progress, started: float
) -> UpgradeReport:
    """What would be built: measured if need be, for without that nobody can tell."""
    snapshot = Snapshot.open(project.lake / request.collection)
    target = target_of(project, snapshot, request.ask.to, rechunk=request.rechunk)
    probed = upgrade.measured(project, snapshot, target, request.ask, folder, progress)
    decision = decide(probed, request.wish)
    made = decision.strategy, decision.cascade
    option = next(o for o in probed.options if (o.strategy, o.cascade) == made)
    return UpgradeReport(
        collection=request.collection,
        release=target.release.release,
        strategy=decision.strategy,
        space_id=target.release.space_id,
        basis_id=None,
        cascade=decision.cascade,
        promoted=False,
        verdict=probed.verdict.strategy,
        reason=probed.verdict.reason,
        report=reports.place_of(snapshot.root, probed.id),
        version=snapshot.version,
        rows=probed.rows,
        encoded=option.cost.encode_rows,
        mapped=probed.rows - option.cost.encode_rows if decision.strategy == "map" else 0,
        seconds=round(time.monotonic() - started, 3),
        forced=decision.forced,
        dry_run=True,
    )


def _report(project: Project, begun: upgrade.Begun, promoted: bool, seconds: float) -> UpgradeReport:
    snapshot = Snapshot.open(project.lake / begun.collection)
    head = snapshot.head
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    release = releases.find(snapshot, begun.release.release)
    held = head.spaces[release.space_id]
    verdict = begun.probed.verdict if begun.probed else None
    return UpgradeReport(
        collection=begun.collection,
        release=release.release,
        strategy=release.strategy,
        space_id=release.space_id,
        basis_id=release.basis.basis_id if release.basis else None,
        cascade=release.cascade,
        promoted=promoted,
        verdict=verdict.strategy if verdict else release.strategy,
        reason=verdict.reason if verdict else begun.note,
        report=reports.place_of(snapshot.root, release.report) if release.report else None,
        version=head.number,
        rows=held.rows,
        encoded=held.encoded,
        mapped=held.mapped,
        seconds=round(seconds, 3),
        forced=release.forced,
    )
