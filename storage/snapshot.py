"""One version of a collection, as the fold of its commit log: which files and rows are live."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, parquet
from storage.commits import Commit, Log
from storage.parquet import DataFile
from storage.schemas import Kind


@dataclass(frozen=True)
class Snapshot:
    """A version that never changes: readers hold one while writers make the next."""

    root: Path
    commits: tuple[Commit, ...]

    @classmethod
    def open(cls, root: Path) -> "Snapshot":
        """The head of the collection in `root`; an empty snapshot if nothing was committed yet."""
        return cls(root, tuple(Log(root).records()))

    def advanced(self) -> "Snapshot":
        """This snapshot, or the new head if one was committed since: costs a look for one file."""
        if Log(self.root).path(self.version + 1).exists():
            return Snapshot.open(self.root)
        return self

    @property
    def head(self) -> Commit | None:
        return self.commits[-1] if self.commits else None

    @property
    def version(self) -> int:
        return self.commits[-1].number if self.commits else 0

    def files(self, kind: Kind, space_id: str | None = None) -> list[DataFile]:
        """Live data files, oldest first; of one space for `vectors`."""
        if kind == "vectors":
            return [f for c in self.commits for f in c.vectors.get(space_id or "", ())]
        return [f for c in self.commits for f in getattr(c, kind)]

    def delete_files(self) -> list[DataFile]:
        return [f for c in self.commits for f in c.deletes]

    def attribute_types(self) -> dict[str, pa.DataType]:
        """The columns of `attributes` as the newest items file has them."""
        for file in reversed(self.files("items")):
            schema = parquet.schema(self.root, file)
            return (
                {f.name: f.type for f in schema.field("attributes").type}
                if "attributes" in schema.names
                else {}
            )
        return {}

    @cached_property
    def masked(self) -> dict[str, np.ndarray]:
        """Masked row positions by data file, ascending."""
        rows: dict[str, list[np.ndarray]] = {}
        for file in self.delete_files():
            table = parquet.read(self.root, file)
            paths = table["path"].combine_chunks().dictionary_encode()
            positions = arrays.to_numpy(table["row"].combine_chunks())
            codes = arrays.to_numpy(paths.indices)
            for code, path in enumerate(paths.dictionary.to_pylist()):
                rows.setdefault(path, []).append(positions[codes == code])
        return {path: np.sort(np.concatenate(parts)) for path, parts in rows.items()}

    def read(
        self, kind: Kind, columns: Sequence[str], space_id: str | None = None
    ) -> Iterator[tuple[DataFile, np.ndarray, pa.Table]]:
        """For each live file: the file, the positions of its live rows, and these rows' columns.

        A column that an older file lacks is simply absent there.
        """
        for file in self.files(kind, space_id):
            table = parquet.read(self.root, file, columns)
            positions = np.arange(table.num_rows)
            if file.path in self.masked:
                positions = np.delete(positions, self.masked[file.path])
                table = table.take(arrays.from_numpy(positions, pa.int64()))
            yield file, positions, table

    def positions_of_rejects(self, keys: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
        """Like `positions_of`, by item id, or by uri where a reject has no id."""
        if len(keys) == 0:
            return
        for file, positions, table in self.read("rejects", ["item_id", "uri"]):
            key = pc.coalesce(table["item_id"], table["uri"])
            hit = arrays.to_numpy(pc.is_in(key, value_set=keys).combine_chunks())
            if hit.any():
                yield file.path, positions[hit]

    def positions_of(
        self, kind: Kind, item_ids: pa.Array, space_id: str | None = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Where the live rows of these items lie: (path, positions) per file that holds any."""
        if len(item_ids) == 0:
            return
        for file, positions, table in self.read(kind, ["item_id"], space_id):
            hit = arrays.to_numpy(pc.is_in(table["item_id"], value_set=item_ids).combine_chunks())
            if hit.any():
                yield file.path, positions[hit]

    def rows_of(
        self, kind: Kind, item_ids: pa.Array, columns: Sequence[str], space_id: str | None = None
    ) -> pa.Table | None:
        """The live rows of these items (`item_id` and `columns`), or None if there are none."""
        found = []
        places = dict(self.positions_of(kind, item_ids, space_id))
        for file in self.files(kind, space_id):
            if file.path in places:
                table = parquet.read(self.root, file, ["item_id", *columns])
                found.append(table.take(arrays.from_numpy(places[file.path], pa.int64())))
        return pa.concat_tables(found, promote_options="default") if found else None

    def chunk_hashes(self, space_id: str) -> np.ndarray:
        """Hashes of all live chunks of a space, sorted, dtype S16: what need not be encoded again."""
        parts = [
            arrays.to_numpy(table["chunk_hash"].combine_chunks()).view("S16")
            for _, _, table in self.read("vectors", ["chunk_hash"], space_id)
        ]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype="S16")

    def vectors_of_chunks(self, space_id: str, hashes: pa.Array, dim: int) -> np.ndarray:
        """Stored native vectors, float32 (n, dim), of the chunks with these hashes, in their order.

        Every hash must be among `chunk_hashes`; a `KeyError` otherwise.
        """
        out = np.full((len(hashes), dim), np.nan, dtype=np.float32)
        found = np.zeros(len(hashes), dtype=bool)
        for file, positions, table in self.read("vectors", ["chunk_hash"], space_id):
            place = pc.index_in(hashes, value_set=table["chunk_hash"].combine_chunks())
            wanted = arrays.validity(place) & ~found
            if not wanted.any():
                continue
            rows = arrays.from_numpy(positions[arrays.to_numpy(place)[wanted]], pa.int64())
            vectors = parquet.read(self.root, file, ["vector"])["vector"].take(rows)
            out[wanted] = arrays.to_numpy(vectors.combine_chunks().flatten()).reshape(-1, dim)
            found |= wanted
        if not found.all():
            raise KeyError(f"{int((~found).sum())} chunks are not stored in {space_id}")
        return out
