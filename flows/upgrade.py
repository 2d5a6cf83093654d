"""upgrade: probe if none is fresh, gate, build beside the live release, verify, promote."""

import tempfile
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from flows.ingest import PlainSteps
from storage import releases
from storage.commits import Release
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import reports, upgrade
from tasks.choice import choose
from tasks.decision import Wish
from tasks.probe import ProbeAsk
from tasks.probed import Probed
from tasks.progress import Progress
from tasks.project import Project
from tasks.targets import next_number, target_of

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
    """What an upgrade came to. `verdict` is the probe's, `report` where the page about it lies.

    `promoted` says whether the release is live, `note` why there was nothing, or only a rest, to be done.
    """

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
    note: str = ""
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
                step(upgrade.finish)(
                    project, begun, Path(folder), arrivals, progress, promote=promote, yes=request.wish.yes
                )
    snapshot = Snapshot.open(root)
    release = releases.find(snapshot, begun.release.release)
    return _report(snapshot, release, begun.probed, begun.note, time.monotonic() - started)


def _forecast(
    project: Project, request: UpgradeRequest, folder: Path, progress: Progress, started: float
) -> UpgradeReport:
    """What would be built: measured if need be, for without that nobody can tell."""
    snapshot = Snapshot.open(project.lake / request.collection)
    target = target_of(project, snapshot, request.ask.to, rechunk=request.rechunk)
    choice = choose(
        project, snapshot, target, request.ask, request.wish, folder, progress, rechunk=request.rechunk
    )
    head, decision, probed = snapshot.head, choice.decision, choice.probed
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    if choice.release is not None or decision is None:
        found = choice.release or head.live
        report = _report(snapshot, found, probed, choice.note, time.monotonic() - started)
        return replace(report, dry_run=True)
    number = next_number(head.releases)
    if decision.strategy == "bridge" and target.release.release == number:
        number += 1  # after the release of the space that it asks in
    rows = head.spaces[target.live.space_id].rows
    made = decision.strategy, decision.cascade
    option = next((o for o in probed.options if (o.strategy, o.cascade) == made), None) if probed else None
    encoded = option.cost.encode_rows if option else rows
    in_old = decision.strategy in ("bridge", "reuse")
    return UpgradeReport(
        collection=request.collection,
        release=number,
        strategy=decision.strategy,
        space_id=(target.source if in_old else target.release).space_id,
        basis_id=None,
        cascade=decision.cascade,
        promoted=False,
        verdict=probed.verdict.strategy if probed else decision.strategy,
        reason=probed.verdict.reason if probed else choice.note,
        report=reports.place_of(snapshot.root, probed.id) if probed else None,
        version=snapshot.version,
        rows=rows,
        encoded=encoded,
        mapped=rows - encoded if decision.strategy == "map" else 0,
        seconds=round(time.monotonic() - started, 3),
        note=choice.note,
        forced=decision.forced,
        dry_run=True,
    )


def _report(
    snapshot: Snapshot, release: Release, probed: Probed | None, note: str, seconds: float
) -> UpgradeReport:
    """How a release stands that is in the log."""
    head = snapshot.head
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    held = head.spaces[release.space_id]
    verdict = probed.verdict if probed else None
    return UpgradeReport(
        collection=snapshot.root.name,
        release=release.release,
        strategy=release.strategy,
        space_id=release.space_id,
        basis_id=release.basis.basis_id if release.basis else None,
        cascade=release.cascade,
        promoted=release.release == head.live_release,
        verdict=verdict.strategy if verdict else release.strategy,
        reason=verdict.reason if verdict else note,
        report=reports.place_of(snapshot.root, release.report) if release.report else None,
        version=head.number,
        rows=held.rows,
        encoded=held.encoded,
        mapped=held.mapped,
        seconds=round(seconds, 3),
        note=note,
        forced=release.forced,
    )
