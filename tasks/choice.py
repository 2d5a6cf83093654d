"""Which release an upgrade is about: one that stands, one that was begun, or one that is still to be made."""

from dataclasses import dataclass, replace
from pathlib import Path

from storage.commits import Commit, Release
from storage.snapshot import Snapshot
from tasks import reports
from tasks.decision import Decision, Wish, decide
from tasks.errors import GateRefused, Refused, TooFew
from tasks.probe import ProbeAsk, fingerprints, probe
from tasks.probed import Probed
from tasks.progress import Progress
from tasks.project import Project
from tasks.queries import read_judged
from tasks.targets import Target


@dataclass(frozen=True)
class Choice:
    """What is to be done: `release` if it is in the log already, else what `decision` says is to be made.

    `probed` led to it, None where nothing had to be measured; `note` says why nothing has to be decided.
    """

    release: Release | None
    decision: Decision | None
    probed: Probed | None = None
    note: str = ""


def choose(
    project: Project, snapshot: Snapshot, target: Target, ask: ProbeAsk, wish: Wish, folder: Path,
    progress: Progress, *, rechunk: bool,
) -> Choice:  # fmt: skip
    """What to do about a target; measures if no probe is fresh, but changes nothing else.

    Raises `GateRefused`, `Refused`, and what a probe raises.
    """
    head = snapshot.head
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    if rechunk and wish.forced is None:
        wish = replace(wish, strategy="reencode")
    if target.is_cut_alike and _asks(head, target, wish):
        return Choice(_as_it_is(snapshot, target, wish), None, note=_live(head.live))
    if (found := unfinished(head, target, wish)) is not None:
        return Choice(found, None, note=f"release {found.release} was begun before and is gone on with")
    decision, probed = _decided(project, snapshot, target, ask, wish, folder, progress)
    made = _as_decided(head, target, decision)
    note = "" if probed else "nothing was measured"
    if made is not None and made.release == head.live_release:
        note = _live(made)
    return Choice(made, decision, probed, note)


def unfinished(head: Commit, target: Target, wish: Wish) -> Release | None:
    """A release as wished that an upgrade to this encoder has begun, and that was never live; the newest.

    One that was forced is gone on with only by who forces it again: the gate had not let it pass.
    """
    strategy = wish.forced or wish.strategy
    through = {r.through for r in head.releases if not r.retired}
    own = {
        r.release
        for r in head.releases
        if (r.fingerprint, r.chunking_id) == (target.facts.fingerprint, target.release.chunking_id)
    }
    found = [
        r
        for r in head.releases
        if r.version is None
        and r.report is not None
        and not r.retired
        and strategy in ("auto", r.strategy)
        and wish.cascade in (None, r.cascade)
        and (wish.forced is not None or not r.forced)
        and (r.through in own if r.through else r.release in own - through)
    ]
    return found[-1] if found else None


def measured(
    project: Project, snapshot: Snapshot, target: Target, ask: ProbeAsk, folder: Path, progress: Progress
) -> Probed:
    """The newest probe that still holds, or a new one, with its report written."""
    label, queries_hash = ask.label, None if ask.queries is None else read_judged(ask.queries)[1]
    fresh = reports.newest(snapshot, fingerprints(target, ask), queries_hash, label)
    if fresh is not None:
        return fresh
    probed = probe(project, snapshot, target, ask, folder, progress)
    reports.save(snapshot.root, probed)
    return probed


def _live(release: Release) -> str:
    cascade = f", cascade {release.cascade}" if release.cascade else ""
    return f"release {release.release} is live already ({release.strategy}{cascade})"


def _asks(head: Commit, target: Target, wish: Wish) -> bool:
    """Whether queries are asked by the target already; by a bridge, unless something else is wished for."""
    if head.live.through is None:
        return target.is_live
    through = head.release(head.live.through)
    return through.fingerprint == target.facts.fingerprint and (wish.forced or wish.strategy) in (
        "auto",
        "bridge",
    )


def _as_it_is(snapshot: Snapshot, target: Target, wish: Wish) -> Release:
    """The live release. Raises `GateRefused` if its mapped rows were to be encoded: a backfill does that."""
    live, name = target.live, snapshot.root.name
    mapped = snapshot.head.spaces[live.space_id].mapped if snapshot.head else 0
    if mapped and "reencode" in (wish.forced, wish.strategy):
        raise GateRefused(
            f"{target.name!r} is the encoder of release {live.release}, which is live already; what is "
            f"mapped there gets encoded by: evervec backfill {name}"
        )
    return live


def _decided(
    project: Project, snapshot: Snapshot, target: Target, ask: ProbeAsk, wish: Wish, folder: Path,
    progress: Progress,
) -> tuple[Decision, Probed | None]:  # fmt: skip
    """What is to be made. To encode everything anew needs no measure where none can be had, only --yes."""
    if target.is_live:  # the same encoder, and other spans: there is nothing to compare
        return _unmeasured(snapshot, target, wish, "cut anew, --rechunk"), None
    try:
        probed = measured(project, snapshot, target, ask, folder, progress)
    except TooFew:
        if wish.forced != "reencode":
            raise
        return _unmeasured(snapshot, target, wish, "encoded anew, --force-strategy reencode"), None
    return decide(probed, wish), probed


def _unmeasured(snapshot: Snapshot, target: Target, wish: Wish, how: str) -> Decision:
    name, rows = snapshot.root.name, snapshot.head.spaces[target.live.space_id].rows if snapshot.head else 0
    if not wish.yes:
        raise Refused(
            f"all {rows:,} rows of collection {name!r} would be {how}, and nothing can be measured before. "
            f"If that is meant: evervec upgrade {name} --to {target.name} {how.partition(', ')[2]} --yes"
        )
    forced = wish.forced is not None
    return Decision("reencode", None, side=False, cascade=0, forced=forced, report="", metrics={})


def _as_decided(head: Commit, target: Target, decision: Decision) -> Release | None:
    """A release that is what was decided on, and was live before: it only has to be made live again."""
    for release in reversed(head.releases):
        by = release if release.through is None else head.release(release.through)
        family = release.basis.family if release.basis else None
        made = (release.strategy, family, release.cascade, by.fingerprint, by.chunking_id)
        wanted = (decision.strategy, decision.family, decision.cascade, target.facts.fingerprint)
        if made == (*wanted, target.release.chunking_id) and release.version and not release.retired:
            return release
    return None
