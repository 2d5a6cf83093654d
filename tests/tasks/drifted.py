"""A collection of texts on six topics, and what carries it over to another encoder, step by step.

Every ninth text is cut into several chunks. `build` upgrades as the flow does, but for the probe.
"""

import importlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.settings import load_project
from storage import releases
from storage.commits import Release
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import backfill, upgrade
from tasks.backfill import Backfilled, Budget
from tasks.decision import Decision
from tasks.probed import Calibrated
from tasks.progress import quietly
from tasks.project import Project
from tasks.targets import target_of
from tasks.upgrade import Begun

YAML = """
lake: ./lake
encoders:
  old: {python: "drifting:Old"}
  new: {python: "drifting:New"}
  newer: {python: "drifting:Newer"}
  same: {python: "drifting:Same"}
  watched: {python: "drifting:Watched"}
collections:
  docs:
    source: {kind: table, path: docs.parquet, id: id, text: text, attributes: [topic]}
    encoder: old
    chunk: {max_tokens: 24, overlap: 0}
    max_deleted: 1.0
    searches: {note_candidates: true}
"""
TOPICS = ("river", "engine", "garden", "music", "tax", "planet")
_LITTLE = ("about", "after", "also", "before", "some", "that", "then", "there", "where", "which", "with")
_LONG, _WORDS = 9, 16

Rows = list[dict[str, str]]


def texts(count: int, seed: int = 0) -> Rows:
    """Items `i000`, `i001`, … with a text of their topic's own words and of some that all have."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        topic = TOPICS[n % len(TOPICS)]
        words = 3 * _WORDS if n % _LONG == 4 else _WORDS
        own = [f"{topic}{chr(97 + a)}{chr(97 + a * 7 % 26)}" for a in rng.integers(0, 26, words * 2 // 3)]
        every = [*own, *rng.choice(_LITTLE, words - len(own))]
        rows.append({"id": f"i{n:03}", "text": " ".join(rng.permutation(every)), "topic": topic})
    return rows


def write(folder: Path, rows: Rows) -> None:
    """Make these the source of the collection."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "docs.parquet")


def project_in(folder: Path, rows: Rows, yaml: str = YAML) -> Project:
    """A project with this source, and the encoders beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).parents[1] / "encoders/drifting.py", folder)
    (folder / "evervec.yaml").write_text(yaml)
    write(folder, rows)
    return load_project(folder)


def encoded(kind: str, some: Sequence[str]) -> np.ndarray:
    """What an encoder gives for texts, asked by itself."""
    made: np.ndarray = getattr(importlib.import_module("drifting"), kind)().encode(list(some))
    return made


def opened(project: Project, at: int | None = None) -> Snapshot:
    """The collection."""
    return Snapshot.open(project.lake / "docs", at)


def held(project: Project, space_id: str) -> dict[tuple[str, int], dict[str, object]]:
    """All live rows of a space by their key."""
    tables = [t for _, _, t in opened(project).read("vectors", None, space_id)]
    rows = pa.concat_tables(tables).to_pylist() if tables else []
    found = {(r["item_id"], r["chunk_no"]): r for r in rows}
    assert len(found) == len(rows), "a chunk is there twice"
    return found


def begin(
    project: Project,
    strategy: str,
    folder: Path,
    lease: object,
    *,
    to: str = "new",
    family: str = "procrustes",
    side: bool = False,
    cascade: int = 0,
    calibrators: Sequence[Calibrated] = (),
    sample: int = 40,
) -> Begun:
    """A release in the log, with a basis that was fitted on so many items, and no rows of its own yet."""
    snapshot = Snapshot.open(project.lake / "docs", strict=True)
    target = target_of(project, snapshot, to)
    carried = strategy in ("map", "bridge")
    decision = Decision(
        strategy, family if carried else None, side, cascade, True, "p1", {}, tuple(calibrators)
    )
    release = upgrade.start(project, snapshot, target, decision, folder, "r1", lease, sample=sample)
    return Begun("docs", target, release, "r1", by_verdict=False)


def build(project: Project, strategy: str, *, promote: bool = True, **settings: object) -> Release:
    """Carry the collection over; the release as it is then."""
    root = project.lake / "docs"
    with tempfile.TemporaryDirectory() as place, lock(root, "upgrade") as lease:
        folder = Path(place)
        begun = begin(project, strategy, folder, lease, **settings)
        upgrade.build(project, begun, folder, lease, quietly)
        with lock(root, "ingest") as arrivals:
            upgrade.finish(project, begun, folder, arrivals, quietly, promote=promote, yes=True)
    return releases.find(opened(project), begun.release.release)


def fill(project: Project, order: str = "residual", **budget: float) -> Backfilled:
    """Backfill, as the flow does it."""
    root = project.lake / "docs"
    with tempfile.TemporaryDirectory() as place, lock(root, "upgrade") as lease:
        return backfill.backfill(project, "docs", order, Budget(**budget), Path(place), "r2", lease, quietly)
