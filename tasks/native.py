"""Native vectors of stored items: taken from where they lie already, else encoded, and kept for later."""

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.spec import EncoderFacts
from storage import kept
from storage.errors import StorageError
from storage.schemas import SHORT_HASH
from storage.snapshot import Snapshot
from tasks.encode import encode_stream
from tasks.encoded import EncodeJob
from tasks.originals import spooled
from tasks.progress import Progress
from tasks.project import Project
from tasks.spool import Part, read_part

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunks:
    """The chunks of one item, in order: hashes, vectors float32 (n, dim), and texts (empty for media)."""

    hashes: list[bytes]
    vectors: np.ndarray
    texts: list[str]


@dataclass
class Native:
    """What came of some items: their chunks, those that could not be encoded, and what it took.

    `fresh` chunks were encoded in `seconds`.
    """

    items: dict[str, Chunks] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    fresh: int = 0
    seconds: float = 0.0


def natively(
    project: Project,
    snapshot: Snapshot,
    job: EncodeJob,
    chunking_id: str,
    item_ids: Sequence[str],
    folder: Path,
    progress: Progress,
    *,
    keep: bool = True,
) -> Native:
    """The vectors that an encoder gives for the chunks of these items, as they are cut already.

    What the lake has in that space, or in the spool of what was encoded in passing, is not encoded again;
    what is encoded goes into that spool, if the lake can be written to.
    """
    found = Native()
    parts = spooled(snapshot, item_ids, chunking_id, folder / f"native-{job.facts.space_id}")
    known = _known(snapshot, job.facts, parts)
    stored = np.unique(np.array(list(known), dtype="S16"))
    total = sum(part.items for part in parts)
    name = snapshot.root.name
    stream = encode_stream(project, project.collection(name).resources, job, parts, stored)
    fresh: list[pa.Table] = []
    done, since = 0, time.monotonic()
    with contextlib.closing(stream):
        for table in stream:
            new = _taken(found, table, known, job.facts.dim)
            if new.num_rows:
                fresh.append(new)
            done += table.num_rows
            progress(done, total, done)
    found.seconds = time.monotonic() - since if found.fresh else 0.0
    if keep and fresh:
        keep_in_passing(snapshot, job.facts.space_id, pa.concat_tables(fresh))
    return found


def keep_in_passing(snapshot: Snapshot, space_id: str, rows: pa.Table) -> None:
    """Put vectors aside for whoever needs them next; a lake that cannot be written to keeps nothing."""
    try:
        kept.keep(snapshot.root, space_id, rows)
    except (OSError, StorageError) as error:
        logger.warning("vectors encoded in passing are not kept: the lake cannot be written to (%s)", error)


def kept_table(
    item_ids: Sequence[str], numbers: Sequence[int], hashes: Sequence[bytes], vectors: np.ndarray
) -> pa.Table:
    """Rows of the spool; `vectors` float32 (n, dim)."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])
    return pa.table(
        {
            "item_id": pa.array(item_ids, pa.string()),
            "chunk_no": pa.array(numbers, pa.int32()),
            "chunk_hash": pa.array(hashes, SHORT_HASH),
            "vector": flat,
        }
    )


def _known(snapshot: Snapshot, facts: EncoderFacts, parts: tuple[Part, ...]) -> dict[bytes, np.ndarray]:
    """What need not be encoded: vectors in the lake and in the spool, by the hash of their chunk."""
    wanted = sorted({chunk["hash"] for part in parts for item in _spans(part) for chunk in item})
    spool = kept.Kept(snapshot.root, facts.space_id, facts.dim)
    spool.refresh()
    known = dict(spool.find(wanted))
    if facts.space_id in snapshot.spaces():
        stored = snapshot.chunk_hashes(facts.space_id)
        here = [key for key in wanted if key not in known and _among(stored, key)]
        vectors = snapshot.vectors_of_chunks(facts.space_id, pa.array(here, SHORT_HASH), facts.dim)
        known |= dict(zip(here, vectors, strict=True))
    return known


def _spans(part: Part) -> list[list[dict[str, Any]]]:
    return [item or [] for item in read_part(part)["spans"].to_pylist()]


def _among(stored: np.ndarray, key: bytes) -> bool:
    place = int(np.searchsorted(stored, np.bytes_(key)))
    return place < len(stored) and bool(stored[place] == np.bytes_(key))


def _taken(found: Native, table: pa.Table, known: dict[bytes, np.ndarray], dim: int) -> pa.Table:
    """Take over what a batch of the stream holds; the rows that are new to the spool."""
    found.fresh += int(pc.sum(table["fresh"]).as_py() or 0)
    ids: list[str] = []
    numbers: list[int] = []
    keys: list[bytes] = []
    made: list[np.ndarray] = []
    columns = (table[n].to_pylist() for n in ("item_id", "text", "chunks", "reject"))
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(table["vectors"]).to_numpy())])
    flat = table["vectors"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    matrix = flat.reshape(-1, dim)
    for row, (item_id, text, chunks, reject) in enumerate(zip(*columns, strict=True)):
        if reject is not None:
            found.rejected[item_id] = reject["reason"]
            continue
        vectors = matrix[offsets[row] : offsets[row + 1]].copy()
        hashes = [chunk["hash"] for chunk in chunks]
        for number, key in enumerate(hashes):
            if key in known:
                vectors[number] = known[key]
                continue
            ids.append(item_id)
            numbers.append(number)
            keys.append(key)
            made.append(vectors[number])
        texts = [text[c["start"] : c["end"]] for c in chunks] if text is not None else []
        found.items[item_id] = Chunks(hashes, vectors, texts)
    return kept_table(ids, numbers, keys, np.asarray(made, np.float32).reshape(-1, dim))
