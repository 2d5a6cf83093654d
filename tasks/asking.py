"""What the queries of a probe are, and what each should find: judged, of one label, or by the new encoder."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from encoders.basis import measure
from encoders.basis.measure import Truth
from encoders.errors import EncoderError
from storage.errors import QueryRefused
from storage.snapshot import Snapshot
from tasks.errors import EncoderChanged, QueriesUnusable
from tasks.native import natively
from tasks.originals import job_of
from tasks.paths import path_of
from tasks.probed import Tier
from tasks.progress import quietly
from tasks.project import Project
from tasks.queries import Judged, known, read_judged
from tasks.questions import Asker
from tasks.reader import open as open_reader
from tasks.releases import encoder_of
from tasks.sampling import Sample
from tasks.targets import Target

MOST_QUERIES = 1_000
_LABELS = (
    "Give a column, or an SQL expression, that tells items apart (see them: evervec sql 'SELECT * FROM "
    "{}_items LIMIT 5')"
)


@dataclass(frozen=True)
class Queries:
    """Queries as the new encoder has them, and as readers ask now (None: the old encoder is gone).

    `shown` says what each is: its text, or the id of the held-out item that is the query.
    """

    new: np.ndarray
    served: np.ndarray | None
    truth: Truth
    shown: list[str]


@dataclass(frozen=True)
class Asked:
    """Where the queries come from. `needed` are items that must be in the gallery."""

    tier: Tier
    judged: tuple[Judged, ...] = ()
    labels: dict[str, str] | None = None
    queries_hash: str | None = None
    label: str | None = None
    unknown: int = 0
    unused: int = 0

    @property
    def metric(self) -> str:
        """Precision where every item of a label counts, else recall."""
        return "precision@10" if self.tier == "label" else "recall@10"

    @property
    def needed(self) -> set[str]:
        return {item_id for query in self.judged for item_id in query.relevant}

    def within(self, most: int) -> "Asked":
        """With as many of the judged queries, in a fixed draw, as have at most so many items for answers.

        All those items are measured with, so that none of them is left to fit a map on.
        """
        chosen: list[Judged] = []
        needed: set[str] = set()
        for query in sorted(self.judged, key=_draw)[:MOST_QUERIES]:
            if len(needed.union(query.relevant)) <= most:
                needed.update(query.relevant)
                chosen.append(query)
        return replace(self, judged=tuple(chosen), unused=len(self.judged) - len(chosen))

    def queries(
        self,
        project: Project,
        snapshot: Snapshot,
        target: Target,
        sample: Sample,
        held: np.ndarray,
        folder: Path,
    ) -> Queries:
        """The queries, measured against the held-out items (indices into the sample)."""
        if self.tier == "judged":
            return self._judged(project, snapshot, target, sample, held)
        labels = np.array([(self.labels or {}).get(sample.item_ids[i]) for i in held], dtype=object)
        able = np.arange(len(held))
        if self.tier == "label":
            inverse, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)[1:]
            able = np.flatnonzero((counts[inverse] > 1) & np.array([v is not None for v in labels], bool))
        own = able[:MOST_QUERIES]
        rows = sample.first[held[own]]
        new = sample.new[rows]
        if self.tier == "label":
            truth = measure.same_label(labels[own], labels, own)
        else:
            item_of = sample.item_of
            gallery = np.flatnonzero(np.isin(item_of, held))
            first = np.searchsorted(item_of[gallery], held)
            scores = measure.best_of_items(measure.cosines(new, sample.new[gallery]), first)
            truth = measure.neighbours(scores, own)
        shown = [sample.item_ids[i] for i in held[own]]
        return Queries(new, _as_served(project, snapshot, sample, rows, folder), truth, shown)

    def _judged(
        self, project: Project, snapshot: Snapshot, target: Target, sample: Sample, held: np.ndarray
    ) -> Queries:
        place = {sample.item_ids[i]: at for at, i in enumerate(held)}
        queries = known(self.judged, set(place))
        texts = [q.query for q in queries]
        new = _encoded(Asker(target.spec, target.facts, target.release), texts)
        path = path_of(snapshot, target.live)
        try:
            asker = Asker(*encoder_of(project, snapshot.root.name, path.asked_by), path.asked_by)
            served = path.recall(_encoded(asker, texts))
        except (EncoderError, EncoderChanged):
            served = None
        truth = measure.judged([np.array([place[i] for i in q.relevant]) for q in queries], len(held))
        return Queries(new, served, truth, texts)


def asked_of(project: Project, snapshot: Snapshot, queries: Path | None, label: str | None) -> Asked:
    """What a probe measures by: a file of judged queries, else a label, else the new encoder's neighbours.

    Raises `QueriesUnusable`, also for a label that is no expression over the items.
    """
    if queries is not None and label is not None:
        raise QueriesUnusable("give --queries or --label, not both: a probe has one measure")
    if queries is not None:
        found, content_hash = read_judged(queries)
        items = {i for _, _, t in snapshot.read("items", ["item_id"]) for i in t["item_id"].to_pylist()}
        good = known(found, items)
        if not good:
            raise QueriesUnusable(
                f"none of the {len(found)} queries of {queries} names an item of collection "
                f"{snapshot.root.name!r}; `relevant` holds item ids, as `evervec search` shows them"
            )
        return Asked(
            "judged", tuple(good[:MOST_QUERIES]), queries_hash=content_hash, unknown=len(found) - len(good)
        )
    if label is not None:
        return Asked("label", labels=_labels(project, snapshot.root.name, label), label=label)
    return Asked("neighbours")


def _draw(query: Judged) -> bytes:
    return hashlib.blake2b(query.query.encode(), digest_size=8, key=b"queries").digest()


def _labels(project: Project, collection: str, label: str) -> dict[str, str]:
    query = f"SELECT item_id, ({label})::VARCHAR AS label FROM {collection}_items"
    try:
        with open_reader(project) as lake:
            table = lake.sql(query)
    except QueryRefused as error:
        said = str(error).splitlines()[0]
        raise QueriesUnusable(f"--label {label}: {said} {_LABELS.format(collection)}") from None
    rows = zip(table["item_id"].to_pylist(), table["label"].to_pylist(), strict=True)
    found = {item_id: value for item_id, value in rows if value is not None}
    if len(set(found.values())) < 2:
        what = "All items have the same." if found else "No item has one."
        raise QueriesUnusable(f"--label {label}: {what} {_LABELS.format(collection)}")
    return found


def _encoded(asker: Asker, texts: Sequence[str]) -> np.ndarray:
    vectors = [asker.vector(text) for text in texts]
    return np.array(vectors, np.float32).reshape(len(texts), asker.encoder[1].dim)


def _as_served(
    project: Project, snapshot: Snapshot, sample: Sample, rows: np.ndarray, folder: Path
) -> np.ndarray:
    """Held-out items as the queries that readers would ask now: native ones, though rows may be mapped."""
    head = snapshot.head
    if head is None:
        raise ValueError(f"{snapshot.root} is empty")
    path = path_of(snapshot, head.live)
    served: np.ndarray = sample.served[rows]
    if not len(rows) or (path.basis is None and not head.spaces[head.live.space_id].mapped):
        return served
    try:
        spec, facts = encoder_of(project, snapshot.root.name, path.asked_by)
    except (EncoderError, EncoderChanged):
        return served
    ids = sample.rows["item_id"].take(rows.tolist()).to_pylist()
    job = job_of(project, snapshot, path.asked_by, spec, facts)
    found = natively(project, snapshot, job, path.asked_by.chunking_id, ids, folder / "served", quietly)
    vectors = [found.items[i].vectors[0] if i in found.items else np.zeros(facts.dim) for i in ids]
    return path.recall(np.stack(vectors).astype(np.float32))
