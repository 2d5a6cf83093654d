"""Changed rows put aside on disk between the diff and the encoders, so that memory stays bounded."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays

PART_ITEMS = 256
PART_BYTES = 2 * 2**20
"""A part is what one encoder takes at once: enough to sort by length, few enough to share evenly."""

MEDIA_ITEMS = 32
MEDIA_BYTES = 32 * 2**20
"""The same of images and audio, by their raw sizes."""


@dataclass(frozen=True)
class Part:
    """One batch of the spool: a record batch of an Arrow file."""

    file: str
    batch: int
    items: int


class Spool:
    """Rows put aside on disk, in parts that one encoder takes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".arrow")
        self._writer: pa.RecordBatchFileWriter | None = None
        self._parts: list[Part] = []

    def write(self, table: pa.Table) -> None:
        if table.num_rows == 0:
            return
        table = table.combine_chunks()
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pa.ipc.new_file(self._path, table.schema)
        for part in _parts(table):
            batch = part.combine_chunks().to_batches()[0]
            self._writer.write_batch(batch)
            self._parts.append(Part(str(self._path), len(self._parts), batch.num_rows))

    def close(self) -> tuple[Part, ...]:
        if self._writer is not None:
            self._writer.close()
        return tuple(self._parts)


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    items, most = PART_ITEMS, PART_BYTES
    sizes = np.zeros(table.num_rows)
    if "bytes" in table.column_names:
        items, most = MEDIA_ITEMS, MEDIA_BYTES
        sizes = arrays.to_numpy(table["bytes"].combine_chunks())
    elif "content" in table.column_names:
        sizes = arrays.to_numpy(pc.fill_null(pc.binary_length(table["content"]), 0).combine_chunks())
    first, size = 0, 0.0
    for at in range(table.num_rows):
        if at > first and (at - first >= items or size + sizes[at] > most):
            yield table.slice(first, at - first)
            first, size = at, 0.0
        size += sizes[at]
    yield table.slice(first)


def discard(spool: Path) -> None:
    """Remove a spool and all in it. Call it with the ingest lock held."""
    if spool.exists():
        shutil.rmtree(spool)


def read_part(part: Part) -> pa.Table:
    """The rows of one part of a spool."""
    with pa.memory_map(part.file) as mapped, pa.ipc.open_file(mapped) as reader:
        return pa.Table.from_batches([reader.get_batch(part.batch)])
