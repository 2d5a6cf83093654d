"""One version of a collection: which files and rows are live, and what they hold."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, checkpoints, parquet
from storage.checkpoints import Checkpoint
from storage.commits import Commit, IndexVersion, Log
from storage.errors import Damaged, VersionGone
from storage.fold import Fold, LiveFile, label
from storage.parquet import ROW_GROUP, DataFile
from storage.places import Place
from storage.schemas import Kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """A version that never changes: readers hold one while writers make the next.

    `tail` are the records after the checkpoint that it was opened from (all, if there is none).
    """

    root: Place
    state: Fold
    base: Checkpoint | None
    tail: tuple[Commit, ...]
    carried: tuple[int, dict[str, np.ndarray]] | None = None
    """The masks of an earlier version that were read already, so that a writer reads each file once."""

    @classmethod
    def open(cls, root: Place, at: int | None = None, *, strict: bool = False) -> "Snapshot":
        """The collection in `root` at version `at`, or at its head; empty if nothing was committed yet.

        Raises `VersionGone` if there is no such version or its files were not kept, `Damaged` if a
        record is. A newest record that is damaged in both copies is passed over with a warning and the
        version before it served; with `strict`, as writers must open, any damaged record is an error, and
        what is found is durable: who linked the last record may have died before it was.
        """
        log = Log(root)
        numbers = log.numbers()
        if strict and numbers:
            log.settle()
        kept = _require_kept(log, numbers, at) if at is not None else None
        newest = at or max(numbers, default=0)
        base = _checkpoint(log, newest)
        empty = cls(root, base.fold() if base else Fold(), base, ())
        found = empty._with(log, newest, strict=strict, asked=at is not None)
        return found if kept is None else found._as_kept(kept)

    def _as_kept(self, now: Commit) -> "Snapshot":
        """An expired version that a release names: what was retired since has no space and no basis left."""
        head = self.head
        left = {r.space_id for r in now.releases if not r.retired}
        gone = {r.release for r in now.releases if r.retired}
        if head is None or head.number >= now.readable_from or not gone:
            return self
        kept = {
            "spaces": {s: o for s, o in head.spaces.items() if s in left},
            "indexes": {s: i for s, i in head.indexes.items() if s in left},
            "releases": tuple(
                r.model_copy(update={"retired": True}) if r.release in gone else r for r in head.releases
            ),
        }
        files = {
            path: file
            for path, file in self.state.files.items()
            if file.kind != "vectors" or file.space_id in left
        }
        state = Fold(head.model_copy(update=kept), files, self.state.index_files)
        return Snapshot(self.root, state, self.base, self.tail)

    def advanced(self, *, strict: bool = False) -> "Snapshot":
        """This snapshot, or the new head if one was committed since."""
        log = Log(self.root)
        newest = max(log.numbers(), default=0)
        return self._with(log, newest, strict=strict) if newest > self.version else self

    def _with(self, log: Log, newest: int, *, strict: bool, asked: bool = False) -> "Snapshot":
        state, tail = self.state.copy(), list(self.tail)
        for number in range(self.version + 1, newest + 1):
            try:
                commit = log.read(number, strict=strict)
            except Damaged as error:
                if strict or asked or number != newest or number == 1:
                    raise
                logger.warning("%s; version %d is served instead", error, number - 1)
                break
            state.apply(commit)
            tail.append(commit)
        return Snapshot(self.root, state, self.base, tuple(tail), self._masks_read())

    @property
    def head(self) -> Commit | None:
        return self.state.head

    @property
    def version(self) -> int:
        return self.state.number

    def files(self, kind: Kind, space_id: str | None = None) -> list[DataFile]:
        """Live data files, oldest first; of one space for `vectors`."""
        return [f.file for f in self.live_files(kind, space_id)]

    def live_files(self, kind: Kind, space_id: str | None = None) -> list[LiveFile]:
        """Like `files`, with what the log says of each."""
        found = (f for f in self.state.files.values() if f.kind == kind)
        return [f for f in found if kind != "vectors" or f.space_id == space_id]

    def spaces(self) -> list[str]:
        """Spaces that have vectors or are to have them."""
        return list(self.head.spaces) if self.head else []

    def all_files(self) -> list[DataFile]:
        """Live data files of every kind."""
        return [f.file for f in self.state.files.values()]

    def index_files(self, index: IndexVersion) -> tuple[DataFile, ...]:
        """The files of an index table; `path` is relative to it. None are recorded in an object store."""
        return self.state.index_files.get(index.table, ())

    def followed_by(self, commit: Commit) -> "Snapshot":
        """The next version, which `commit` makes."""
        state = self.state.copy()
        state.apply(commit)
        return Snapshot(self.root, state, self.base, (*self.tail, commit), self._masks_read())

    def _masks_read(self) -> tuple[int, dict[str, np.ndarray]] | None:
        return (self.version, self.masked) if "masked" in vars(self) else self.carried

    def history(self) -> pa.Table:
        """A line for each version so far, oldest first; columns of `checkpoints.HISTORY`."""
        tail = checkpoints.lines(self.tail)
        return pa.concat_tables([self.base.history(), tail]) if self.base else tail

    def kept(self, version: int) -> str:
        """Whether an earlier version can be read: `yes`, or `purged` or `expired`."""
        return _kept(self.head, version) if self.head else "yes"

    def checkpoint(self) -> None:
        """Write a checkpoint of this version."""
        checkpoints.save(self.root, self.state, self.masked, self.history())

    def attributes(self) -> pa.StructType:
        """The columns of `attributes` as the head has them; text, where no file has such a column yet."""
        said = self.head.attributes if self.head else {}
        found: dict[str, pa.DataType] = {}
        one_of_each = {file.attributes: file for file in self.live_files("items")}
        present = label(said)
        ordered = sorted(one_of_each.values(), key=lambda f: (f.attributes == present, f.since), reverse=True)
        for file in ordered:
            schema = parquet.schema(self.root, file.file) if len(found) < len(said) else pa.schema([])
            for column in schema.field("attributes").type if "attributes" in schema.names else ():
                found.setdefault(column.name, column.type)
        return pa.struct([(name, found.get(name, pa.string())) for name in said])

    @cached_property
    def masked(self) -> dict[str, np.ndarray]:
        """Masked row positions of live files, ascending."""
        folded, before = self.carried or (0, {})
        if self.carried is None and self.base is not None:
            folded, before = self.base.number, self.base.masks()
        parts = [before]
        new = [f.file for f in self.live_files("deletes") if f.since > folded]
        parts += [checkpoints.by_path(parquet.read(self.root, file)) for file in new]
        rows: dict[str, list[np.ndarray]] = {}
        for part in parts:
            for path, positions in part.items():
                if path in self.state.files:
                    rows.setdefault(path, []).append(positions)
        return {
            path: found[0] if len(found) == 1 else np.unique(np.concatenate(found))
            for path, found in rows.items()
        }

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

    def batches(
        self, kind: Kind, columns: Sequence[str], space_id: str | None = None, rows: int = ROW_GROUP
    ) -> Iterator[tuple[DataFile, np.ndarray, pa.Table]]:
        """Like `read`, about `rows` of a file at a time, so that memory does not grow with the files.

        With `item_id` among the columns no item is cut: its rows, as far as they lie together in the file,
        come together. No table is empty.
        """
        for file in self.files(kind, space_id):
            pieces = self._pieces(file, columns, rows)
            for positions, table in _between_items(pieces) if "item_id" in columns else pieces:
                yield file, positions, table

    def _pieces(
        self, file: DataFile, columns: Sequence[str], rows: int
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """The live rows of a file with their positions, as they are read."""
        masked, at = self.masked.get(file.path, np.empty(0, np.int64)), 0
        for table in parquet.batches(self.root, file, columns, rows):
            end = at + table.num_rows
            positions = np.arange(at, end)
            gone = masked[slice(*np.searchsorted(masked, [at, end]))]
            if len(gone):
                positions = np.delete(positions, gone - at)
                table = table.take(arrays.from_numpy(positions - at, pa.int64()))
            at = end
            if len(positions):
                yield positions, table

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
        """Hashes of all chunks encoded into a space, sorted, dtype S16: what need not be encoded again."""
        parts = [
            arrays.to_numpy(native["chunk_hash"].combine_chunks()).view("S16")
            for _, _, native in self._native(space_id)
        ]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype="S16")

    def vectors_of_chunks(self, space_id: str, hashes: pa.Array, dim: int) -> np.ndarray:
        """Stored native vectors, float32 (n, dim), of the chunks with these hashes, in their order.

        Every hash must be among `chunk_hashes`; a `KeyError` otherwise.
        """
        out = np.full((len(hashes), dim), np.nan, dtype=np.float32)
        found = np.zeros(len(hashes), dtype=bool)
        for file, positions, table in self._native(space_id):
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

    def _native(self, space_id: str) -> Iterator[tuple[DataFile, np.ndarray, pa.Table]]:
        """Hashes of the chunks that the space's own encoder made: mapped and imported vectors are others."""
        for file, positions, table in self.read("vectors", ["chunk_hash", "origin"], space_id):
            native = arrays.to_numpy(pc.equal(table["origin"], "encoded").combine_chunks())
            if not native.all():
                positions, table = positions[native], table.filter(arrays.from_numpy(native, pa.bool_()))
            yield file, positions, table


def _between_items(
    pieces: Iterator[tuple[np.ndarray, pa.Table]],
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """The same rows, cut where one item ends and the next begins."""
    held: tuple[np.ndarray, pa.Table] | None = None
    for positions, table in pieces:
        if held is not None:
            positions, table = np.concatenate([held[0], positions]), pa.concat_tables([held[1], table])
        others = pc.not_equal(table["item_id"], table["item_id"][-1]).combine_chunks()
        end = int(np.flatnonzero(arrays.to_numpy(others)).max(initial=-1)) + 1
        if end:
            yield positions[:end], table.slice(0, end)
        held = positions[end:], table.slice(end)
    if held is not None:
        yield held


def _checkpoint(log: Log, newest: int) -> Checkpoint | None:
    """The last checkpoint not after `newest` that is of this very log, and not of one that was lost."""
    root = log.directory.parent
    while (found := checkpoints.newest(root, newest)) is not None:
        try:
            if log.read(found.number).nonce == found.contents.head.nonce:
                return found
        except Damaged as error:
            logger.warning("%s", error)
        newest = found.number - 1
    return None


def _newest_readable(log: Log, numbers: Sequence[int]) -> Commit:
    """The last record that is whole. Raises `Damaged` if none is."""
    for number in reversed(numbers[1:]):
        try:
            return log.read(number)
        except Damaged as error:
            logger.warning("%s", error)
    return log.read(numbers[0])


def _kept(head: Commit, at: int) -> str:
    """Whether the files of a version are kept: `yes`, `purged` or `expired`."""
    if head.purged_at is not None and at < head.purged_at:
        return "purged"
    named = {r.version for r in head.releases if not r.retired}
    return "expired" if at < head.readable_from and at not in named else "yes"


def _require_kept(log: Log, numbers: Sequence[int], at: int) -> Commit:
    """The newest record; raise `VersionGone` unless version `at` exists and its files are kept."""
    name = log.directory.parent.name
    if not numbers or at not in range(1, numbers[-1] + 1):
        there = f"1 to {numbers[-1]}" if numbers else "none"
        raise VersionGone(f"collection {name!r} has no version {at}; there are: {there}")
    head = _newest_readable(log, numbers)
    kept = _kept(head, at)
    if kept == "purged":
        raise VersionGone(
            f"version {at} of collection {name!r} was purged at {head.purged_at}: what was deleted by "
            f"then is gone for good. Give a version from {head.purged_at} on"
        )
    if kept == "expired":
        raise VersionGone(
            f"version {at} of collection {name!r} is older than what is kept (`retain:` in evervec.yaml); "
            f"give a version from {head.readable_from} on"
        )
    return head
