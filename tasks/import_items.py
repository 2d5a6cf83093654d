"""Checked chunks become items: their texts are put together, their contents hashed."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.chunking import chunk_hash
from encoders.decode import decode_text
from storage.schemas import MEDIA, TIMESTAMP
from tasks.encoded import CHUNKS
from tasks.errors import SourceUnusable
from tasks.import_rows import NORM_TOLERANCE, Gathered, chunk_text
from tasks.imports import EXPORTED, Job

Refuse = Callable[[str | None, str, str, str, str], None]
"""Takes note of a reject: item id, uri, stage, reason, type."""


@dataclass(frozen=True)
class Batch:
    """Items of a window as the stream of an ingest has them, and their vectors.

    `items` has `item_id`, `uri`, `text`, `bytes`, `content_hash`, `chunks`, `attributes`, and of an export
    `modality`, `stale_since` and `observed_at`; `numbers` are the chunk numbers.
    """

    items: pa.Table
    matrix: np.ndarray
    numbers: np.ndarray

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where the chunks of each item end."""
        return np.cumsum(pc.list_value_length(self.items["chunks"]).to_numpy())

    def chunks_of(self, item: int) -> slice:
        """Which chunks are those of an item."""
        return slice(int(self._ends[item - 1]) if item else 0, int(self._ends[item]))

    def taken(self, items: list[int]) -> "Batch":
        """Some of the items, given ascending."""
        if len(items) == self.items.num_rows:
            return self
        mine = (self.chunks_of(item) for item in items)
        parts = [np.arange(own.start, own.stop) for own in mine]
        chosen = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return Batch(self.items.take(pa.array(items, pa.int64())), self.matrix[chosen], self.numbers[chosen])


class _Unfit(Exception):
    """Chunks that make no item."""


class Assembler:
    """From chunks to items."""

    def __init__(self, job: Job, gathered: Gathered, refuse: Refuse) -> None:
        self._job, self._gathered, self._refuse = job, gathered, refuse

    def assemble(self, items: pa.Table | None, chunks: pa.Table) -> Batch:
        """Items with all their chunks; those that cannot be put together become rejects."""
        facts = self._facts_of(items)
        made: list[dict[str, Any]] = []
        kept: list[np.ndarray] = []
        first: list[int] = []
        numbers: list[int] = []
        columns = {n: chunks[n].to_pylist() for n in chunks.column_names if n in _ROW}
        for start, stop in _runs(columns["item_id"]):
            item_id = columns["item_id"][start]
            own = facts.pop(item_id, None)
            if item_id in self._gathered.refused_items:
                continue  # one of its chunks is a reject, and so all of it
            rows_of = [{n: values[at] for n, values in columns.items()} for at in range(start, stop)]
            try:
                item = _from_export(own, rows_of) if own is not None else self._item(rows_of)
            except _Unfit as error:
                self._refuse(item_id, str(self._job.given.path), "chunk", str(error), "BadChunk")
                continue
            made.append({"item_id": item_id, **item})
            numbers.extend([r["chunk"] for r in rows_of] if own is not None else range(stop - start))
            kept.append(np.arange(start, stop))
            first.append(start if own is None else own["row"])
        for item_id in facts:  # they came without a chunk
            if item_id not in self._gathered.refused_items:
                where = str(self._job.given.path)
                self._refuse(item_id, where, "encode", "the vector is missing", "BadVector")
        table = self._table(made, items if items is not None else chunks, first)
        chosen = np.concatenate(kept) if kept else np.empty(0, np.int64)
        return Batch(table, self._matrix(chunks, chosen), np.array(numbers, np.int32))

    def _facts_of(self, items: pa.Table | None) -> dict[str, dict[str, Any]]:
        if items is None:
            return {}
        shown = items.select([n for n in items.column_names if n in EXPORTED])
        return {row["item_id"]: {**row, "row": at} for at, row in enumerate(shown.to_pylist())}

    def _matrix(self, chunks: pa.Table, chosen: np.ndarray) -> np.ndarray:
        if not len(chosen):
            return np.empty((0, self._job.release.dim), np.float32)
        flat = chunks["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        matrix: np.ndarray = flat.reshape(-1, self._job.release.dim)[chosen]
        if self._gathered.unit and self._gathered.off_norm:
            norms = np.linalg.norm(matrix, axis=1, keepdims=True)
            matrix = np.where(np.abs(norms - 1) > NORM_TOLERANCE, matrix / norms, matrix)
        return matrix.astype(np.float32)

    def _item(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """An item of a foreign table: its text put together, its spans, what its content hashes to."""
        uri = chunks[0]["uri"]
        if self._job.given.uri:
            spans = [(c["start"] or 0, c["end"] or 0) for c in chunks]
            hashed = [(a, b, chunk_hash(f"{uri}#{at}")) for at, (a, b) in enumerate(spans)]
            digest = hashlib.sha256(uri.encode()).digest()
            return {"uri": uri, "text": None, "bytes": 0, "content_hash": digest, "chunks": hashed}
        if self._job.given.chunk:
            text, spans = _joined(chunks)
            raw = text.encode()
        else:
            raw = chunks[0]["content"]
            text = decode_text(raw, declared="utf-8")
            spans = [(0, len(text))]
        return {
            "uri": uri,
            "text": text,
            "bytes": len(raw),
            "content_hash": hashlib.sha256(raw).digest(),
            "chunks": [(a, b, chunk_hash(text[a:b])) for a, b in spans],
        }

    def _table(self, made: list[dict[str, Any]], source: pa.Table, first: list[int]) -> pa.Table:
        columns = {
            "item_id": pa.array([m["item_id"] for m in made], pa.string()),
            "uri": pa.array([m["uri"] for m in made], pa.string()),
            "text": pa.array([m["text"] for m in made], pa.large_string()),
            "bytes": pa.array([m["bytes"] for m in made], pa.int64()),
            "content_hash": pa.array([m["content_hash"] for m in made], pa.binary(32)),
            "chunks": pa.array(
                [[{"start": a, "end": b, "hash": h} for a, b, h in m["chunks"]] for m in made], CHUNKS
            ),
        }
        if self._job.modality != "text":
            columns["media"] = pa.array([m.get("media") for m in made], MEDIA)
        if self._job.is_export:
            columns["modality"] = pa.array([m["modality"] for m in made], pa.string())
            columns["stale_since"] = pa.array([m["stale_since"] for m in made], TIMESTAMP)
            columns["observed_at"] = pa.array([m["observed_at"] for m in made], TIMESTAMP)
        table = pa.table(columns)
        attributes = self._attributes(source.take(pa.array(first, pa.int64())))
        return table if attributes is None else table.append_column("attributes", attributes)

    def _attributes(self, source: pa.Table) -> pa.ChunkedArray | pa.Array | None:
        if not self._job.is_export:
            return source["attributes"] if "attributes" in source.column_names else None
        names = self._job.given.attributes
        if not names:
            return None
        kept = {f.name: f.type for f in self._job.kept}
        fields = []
        for name in names:
            column = source[name].combine_chunks()
            try:
                fields.append(column.cast(kept.get(name, column.type)))
            except pa.ArrowException as error:
                raise SourceUnusable(
                    f"{self._job.given.path}: attribute {name!r} is {column.type}, in collection "
                    f"{self._job.collection!r} it is {kept[name]}: {error}"
                ) from None
        return pa.StructArray.from_arrays(fields, names=list(names))


_AS_IT_WAS = ("uri", "text", "bytes", "media", "modality", "stale_since", "observed_at")
_ROW = ("item_id", "place", "chunk", "start", "end", "content", "uri")


def _runs(ids: list[str]) -> Iterator[tuple[int, int]]:
    """Where each item begins and ends, in chunks that lie together."""
    start = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or ids[at] != ids[start]:
            yield start, at
            start = at


def _from_export(item: dict[str, Any], chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """An item as its export has it."""
    text = item["text"]
    spans = [(c["start"], c["end"]) for c in chunks]
    if text is not None and any(not 0 <= a <= b <= len(text) for a, b in spans):
        raise _Unfit(f"a chunk reaches beyond the text of {len(text)} characters: the export was altered")
    hashed = [
        (a, b, chunk_hash(text[a:b] if text is not None else f"{item['uri']}#{at}"))
        for at, (a, b) in enumerate(spans)
    ]
    kept = {n: item.get(n) for n in _AS_IT_WAS}
    return {**kept, "content_hash": bytes.fromhex(item["content_hash"]), "chunks": hashed}


_LONGEST_GAPS = 1_000_000
"""Characters that an item may have beyond twice those of its chunks: offsets are only what somebody says."""


def _joined(chunks: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
    """The text of an item out of those of its chunks, and their spans.

    By their offsets where they have any: what lies between two is taken for white space, where two overlap
    they must agree. Else one after the other, a line feed between them.
    """
    texts = [chunk_text(c["content"]) for c in chunks]
    if any(c["start"] is None or c["end"] is None for c in chunks):
        ends = np.cumsum([len(t) + 1 for t in texts])
        return "\n".join(texts), [(int(e) - 1 - len(t), int(e) - 1) for e, t in zip(ends, texts, strict=True)]
    spans = [(c["start"], c["end"]) for c in chunks]
    most = 2 * sum(map(len, texts)) + _LONGEST_GAPS
    whole = ""
    for (start, end), text in sorted(zip(spans, texts, strict=True)):
        if start < 0 or end - start != len(text):
            raise _Unfit(
                f"chunk_start {start} and chunk_end {end} do not fit a text of {len(text)} characters"
            )
        if start > most:
            raise _Unfit(f"chunk_start {start} is far beyond all texts of the item together")
        whole = whole.ljust(start)
        shared = whole[start:end]
        if text[: len(shared)] != shared:
            raise _Unfit(f"two chunks say different things about character {start} and what follows")
        whole += text[len(shared) :]
    return whole, spans
