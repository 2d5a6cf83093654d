"""Where the reports of probes lie, and whether the newest still holds."""

import json
import logging
from pathlib import Path

from storage import places
from storage.places import Place
from storage.snapshot import Snapshot
from tasks.errors import ProbeUnreadable
from tasks.probed import Probed, from_json, to_json
from tasks.report import page

logger = logging.getLogger(__name__)

MOST_CHANGED = 0.05
"""A share of changed rows beyond which a probe is not of this collection any more."""


def save(root: Place, probed: Probed) -> str:
    """Write `probe.json` and `probe.html`; where the page lies."""
    folder = root / "reports" / probed.id
    places.replace(folder / "probe.json", json.dumps(to_json(probed), indent=1).encode())
    places.replace(folder / "probe.html", page(probed).encode())
    return str(folder / "probe.html")


def place_of(root: Place, report: str) -> str:
    """Where the page of a report lies."""
    return str(root / "reports" / report / "probe.html")


def newest(
    snapshot: Snapshot, fingerprints: dict[str, str], queries_hash: str | None, label: str | None
) -> Probed | None:
    """The newest probe that still holds: same encoders, live release, queries and label, about the same rows.

    One that is damaged, or of another version, is passed over with a warning: the next replaces it.
    """
    folder = snapshot.root / "reports"
    found: list[Probed] = []
    for entry in places.walk(folder):
        if Path(entry.path).name != "probe.json":
            continue
        try:
            probed = from_json(json.loads(places.read(folder / entry.path)))
        except (ValueError, ProbeUnreadable) as error:
            logger.warning("%s cannot be read (%s) and is passed over", folder / entry.path, error)
            continue
        asked = (dict(probed.fingerprints), probed.queries_hash, probed.label)
        if asked == (fingerprints, queries_hash, label) and not _is_outdated(snapshot, probed):
            found.append(probed)
    return max(found, key=lambda probed: probed.made_at, default=None)


def _is_outdated(snapshot: Snapshot, probed: Probed) -> bool:
    head = snapshot.head
    if head is None or probed.version > head.number:
        return True
    since = snapshot.history()
    rows = zip(*(since[n].to_pylist() for n in ("version", "added", "updated", "deleted")), strict=True)
    changed = sum(a + u + d for version, a, u, d in rows if version > probed.version)
    return bool(changed > MOST_CHANGED * max(probed.items, 1))
