"""Pull a source and compare it with the head of the collection: what is new, changed, gone.

Costs listing and hashing, not the table: nothing is encoded here, no model and no index is opened.
Changed content goes to a spool on disk, so that memory holds ids and hashes only (some 110 bytes for
every item of the collection), however large the source.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays
from storage.schemas import CONTENT_HASH, SHORT_HASH
from storage.snapshot import Snapshot
from tasks.errors import BadRows, Refused
from tasks.sources.protocol import Pulled, PullReject, Source
from tasks.spool import Part, Spool

_NAMED = 5
_NEAR = 8_192


@dataclass(frozen=True)
class Plan:
    """What one pull asks for. The spool holds the content of the items in `changed`.

    `refreshed` are items whose content stands, but whose attributes changed or whose last reject no
    longer holds. `rejected_known` counts items that were rejected before and are still the same:
    they are not tried again. `notes` are sentences for the person who reads the report.
    """

    run_id: str
    started_at: datetime
    seen: int
    unchanged: int
    changed: tuple[Part, ...]
    refreshed: tuple[Part, ...]
    deleted: tuple[str, ...]
    rejects: tuple[PullReject, ...]
    stale: tuple[str, ...]
    rejected_known: int
    resolved: tuple[str, ...]
    attributes: pa.StructType
    offset: str | None
    notes: tuple[str, ...] = ()

    @property
    def to_encode(self) -> int:
        return sum(p.items for p in self.changed)

    @property
    def is_empty(self) -> bool:
        """Nothing to write: the head already says what the source says."""
        return not (self.changed or self.refreshed or self.deleted or self.resolved or self.rejects)


def pull_and_diff(
    source: Source,
    snapshot: Snapshot,
    spool: Path,
    *,
    run_id: str,
    limit: int | None = None,
    max_deleted: float = 1.0,
    yes: bool = False,
    retry: bool = False,
) -> Plan:
    """Pull `source` once, completely or up to `limit` rows, and plan what to do; writes to `spool` only.

    With `retry` only items that stand rejected are looked at, whether or not they changed.

    Absence means deletion only after a complete pull without `limit` in which every row could be
    identified. Raises `BadRows` for duplicate ids, `Refused` (unless `yes`) for an empty pull or one
    that would delete more than the share `max_deleted` of the collection.
    """
    diff = _Diff(snapshot, spool, run_id, retry=retry)
    complete = False
    for pulled in source.pull(None):
        room = None if limit is None else limit - diff.seen
        if room is not None and pulled.rows.num_rows >= room:
            diff.add(Pulled(pulled.rows.slice(0, room), pulled.rejects))
            break
        diff.add(pulled)
        complete = pulled.complete
    diff.require_distinct_ids(source)
    if diff.seen == 0 and not yes and not retry:
        raise Refused(
            f"the source is empty: {source.where} gave no items. If that is meant, run again with --yes"
            + ("; every item of the collection will be deleted" if len(diff.known.ids) else "")
        )
    return diff.plan(complete=complete, max_deleted=max_deleted, yes=yes)


class _Known:
    """Ids and hashes of the live items, to be found by id; exact, and compact for millions."""

    def __init__(self, snapshot: Snapshot) -> None:
        ids, content, attributes, stale = [], [], [], []
        columns = ["item_id", "content_hash", "attributes_hash", "stale_since"]
        for _, _, table in snapshot.read("items", columns):
            ids.append(table["item_id"].combine_chunks())
            content.append(arrays.to_numpy(table["content_hash"].combine_chunks()))
            attributes.append(arrays.to_numpy(table["attributes_hash"].combine_chunks()))
            stale.append(arrays.validity(table["stale_since"].combine_chunks()))
        self.ids = pa.concat_arrays(ids) if ids else arrays.empty(pa.string())
        self.content = np.concatenate(content) if content else np.empty(0, "V32")
        self.attributes = np.concatenate(attributes) if attributes else np.empty(0, "V16")
        self.stale = np.concatenate(stale) if stale else np.empty(0, bool)
        self._next = 0

    def find(self, ids: pa.Array) -> np.ndarray:
        """Row of each id, int64; -1 where it is not known."""
        if len(self.ids) == 0:
            return np.full(len(ids), -1, dtype=np.int64)
        # sources mostly list in the order of last time: look near the place where the last batch ended
        start = max(0, self._next - _NEAR)
        near = self.ids.slice(start, len(ids) + 2 * _NEAR)
        place = pc.index_in(ids, value_set=near)
        rows = arrays.to_numpy(place).astype(np.int64) + start
        elsewhere = ~arrays.validity(place)
        if elsewhere.any():
            rows[elsewhere] = self._search(ids.filter(arrays.from_numpy(elsewhere, pa.bool_())))
        if not elsewhere.all():
            self._next = int(rows[~elsewhere].max()) + 1
        return rows

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the known ids ascending, and the row of each."""
        keys = keys_of(self.ids)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def _search(self, ids: pa.Array) -> np.ndarray:
        known, order = self._sorted
        keys = keys_of(ids)
        rows = np.full(len(ids), -1, dtype=np.int64)
        pending = np.arange(len(ids))
        place = np.searchsorted(known, keys)
        # a key is a 64-bit hash: compare the ids themselves, and look further while keys collide
        while len(pending):
            pending = pending[place[pending] < len(known)]
            pending = pending[known[place[pending]] == keys[pending]]
            if not len(pending):
                break
            found = order[place[pending]]
            theirs, ours = (arrays.from_numpy(at, pa.int64()) for at in (found, pending))
            equal = arrays.to_numpy(pc.equal(self.ids.take(theirs), ids.take(ours)))
            rows[pending[equal]] = found[equal]
            pending = pending[~equal]
            place[pending] += 1
        return rows


@dataclass
class _Diff:
    """The state of one comparison."""

    snapshot: Snapshot
    spool: Path
    run_id: str
    retry: bool = False
    seen: int = 0
    unchanged: int = 0
    rejected_known: int = 0
    blocked: bool = False
    offset: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.known = _Known(self.snapshot)
        self._present = np.zeros(len(self.known.ids), dtype=bool)
        self._known_rejects, self._known_rejects_with_id = _known_rejects(self.snapshot)
        self._rejects_met: set[str] = set()
        self._resolved: list[str] = []
        self._new_keys: list[np.ndarray] = []
        self._met = 0
        self._rejects: list[PullReject] = []
        self._stale: list[str] = []
        self._tombstones: list[str] = []
        self._attributes: pa.StructType = pa.struct([])
        self._changed = Spool(self.spool / "changed")
        self._refreshed = Spool(self.spool / "refreshed")

    def add(self, pulled: Pulled) -> None:
        """Compare one batch."""
        if self.retry:
            pulled = self._rejected_before(pulled)
        self._add_rejects(pulled.rejects)
        self._tombstones.extend(pulled.deleted)
        self.offset = pulled.offset or self.offset
        table = pulled.rows.combine_chunks()
        if "attributes" in table.column_names:
            self._attributes = table.schema.field("attributes").type
        if table.num_rows == 0:
            return
        self.seen += table.num_rows
        ids = table["item_id"].combine_chunks()
        rows = self.known.find(ids)
        old = rows >= 0
        self._note_presence(ids, rows, old)
        media = "content_hash" in table.column_names
        content = content_hashes(table)
        attributes = _with_places(table) if media else attributes_hashes(table)
        same_content = np.zeros(len(rows), dtype=bool)
        same_content[old] = self.known.content[rows[old]] == content[old]
        same = same_content.copy()
        same[old] &= self.known.attributes[rows[old]] == attributes[old]
        same[old] &= ~self.known.stale[rows[old]]
        skipped = self._still_rejected(ids, content, same_content)
        self.unchanged += int(same.sum())
        table = table.append_column("known", arrays.from_numpy(old, pa.bool_()))
        for spool, chosen in (
            (self._refreshed, same_content & ~same),
            (self._changed, ~same_content & ~skipped),
        ):
            if chosen.any():
                rest = table.filter(arrays.from_numpy(chosen, pa.bool_()))
                if not media:
                    hashed = arrays.from_numpy(content[chosen], CONTENT_HASH)
                    rest = rest.append_column("content_hash", hashed)
                spool.write(
                    rest.append_column("attributes_hash", arrays.from_numpy(attributes[chosen], SHORT_HASH))
                )

    def _rejected_before(self, pulled: Pulled) -> Pulled:
        """Of a batch the rows that stand rejected."""
        keys = pa.array(list(self._known_rejects), pa.string())
        rows = pulled.rows.filter(pc.is_in(pulled.rows["item_id"], value_set=keys))
        rejects = tuple(r for r in pulled.rejects if (r.item_id or r.uri) in self._known_rejects)
        return Pulled(rows, rejects)

    def _note_presence(self, ids: pa.Array, rows: np.ndarray, old: np.ndarray) -> None:
        """Remember which items were met; met more often than present means met twice."""
        self._present[rows[old]] = True
        self._met += int(old.sum())
        if not old.all():
            self._new_keys.append(keys_of(ids.filter(arrays.from_numpy(~old, pa.bool_()))))

    def _add_rejects(self, rejects: tuple[PullReject, ...]) -> None:
        self.seen += len(rejects)
        for reject in rejects:
            key = reject.item_id or reject.uri
            self._rejects_met.add(key)
            if reject.item_id is None:
                self.blocked = True
            else:
                self._note_presence_of(reject.item_id)
            if self._known_rejects.get(key, b"") is None and not self.retry:
                self.rejected_known += 1  # could not be read before, cannot be read now
            else:
                self._rejects.append(reject)

    def _note_presence_of(self, item_id: str) -> None:
        """An item that cannot be read is not gone: its last good rows stay, marked stale."""
        ids = arrays.strings([item_id])
        rows = self.known.find(ids)
        self._note_presence(ids, rows, rows >= 0)
        if rows[0] >= 0 and not self.known.stale[rows[0]]:
            self._stale.append(item_id)

    def _still_rejected(self, ids: pa.Array, content: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Which rows were rejected before with this very content; notes which are `good` again."""
        skipped = np.zeros(len(good), dtype=bool)
        if not self._known_rejects:
            return skipped
        for at, item_id in enumerate(ids.to_pylist()):
            if item_id not in self._known_rejects:
                continue
            self._rejects_met.add(item_id)
            rejected = self._known_rejects[item_id]
            if good[at]:
                # with this very content it can only have been rejected for another space: that stands
                if self.retry or rejected != content[at].tobytes():
                    self._resolved.append(item_id)
            else:
                skipped[at] = not self.retry and rejected == content[at].tobytes()
        self.rejected_known += int(skipped.sum())
        return skipped

    def require_distinct_ids(self, source: Source) -> None:
        """Raise `BadRows` naming the rows if an id came twice in this pull."""
        keys = np.concatenate(self._new_keys) if self._new_keys else np.empty(0, np.int64)
        if self._met == self._present.sum() and len(np.unique(keys)) == len(keys):
            return
        where: dict[str, list[str]] = {}
        for pulled in source.pull(None):  # once more, to name the rows; nothing was done yet
            rows = zip(pulled.rows["item_id"].to_pylist(), pulled.rows["row"].to_pylist(), strict=True)
            for item_id, row in rows:
                where.setdefault(item_id, []).append(f"row {row}")
            for reject in pulled.rejects:
                if reject.item_id is not None:
                    where.setdefault(reject.item_id, []).append(f"a row rejected for {reject.reason}")
        twice = {i: rows for i, rows in where.items() if len(rows) > 1}
        if twice:
            named = "; ".join(f"{i!r} is in {' and '.join(r)}" for i, r in list(twice.items())[:_NAMED])
            more = f" and {len(twice) - _NAMED} more ids" if len(twice) > _NAMED else ""
            raise BadRows(
                f"{source.where}: ids must be unique within a pull, but {named}{more}. Nothing was changed"
            )

    def plan(self, *, complete: bool, max_deleted: float, yes: bool) -> Plan:
        notes = []
        total = len(self.known.ids)
        complete = complete and not self.retry
        sure = complete and not self.blocked
        gone = ~self._present if sure else np.zeros(total, dtype=bool)
        tombstones = arrays.strings(list(dict.fromkeys(self._tombstones)))
        buried = self.known.find(tombstones)
        gone[buried[buried >= 0]] = True
        if complete and self.blocked and not self._present.all():
            notes.append(
                f"{int((~self._present).sum()):,} items were not seen, but the rows that could not be "
                "identified may be theirs: nothing is deleted until those are mended"
            )
        if total and gone.sum() > max_deleted * total and not yes:
            raise Refused(
                f"this pull would delete {int(gone.sum()):,} of {total:,} items, more than max_deleted "
                f"({max_deleted:.0%}). Nothing was deleted; if it is meant, run again with --yes"
            )
        unmet = set(self._known_rejects) - self._rejects_met if complete else set()
        vanished = unmet if sure else unmet - set(self._known_rejects_with_id)
        return Plan(
            run_id=self.run_id,
            started_at=self.started_at,
            seen=self.seen,
            unchanged=self.unchanged,
            changed=self._changed.close(),
            refreshed=self._refreshed.close(),
            deleted=tuple(self.known.ids.filter(arrays.from_numpy(gone, pa.bool_())).to_pylist()),
            rejects=tuple(self._rejects),
            stale=tuple(self._stale),
            rejected_known=self.rejected_known,
            resolved=tuple(sorted(vanished | set(self._resolved))),
            attributes=self._attributes,
            offset=self.offset,
            notes=tuple(notes),
        )


def keys_of(ids: pa.Array) -> np.ndarray:
    """A 64-bit hash of each id, int64; another one in every process."""
    return np.fromiter(map(hash, ids.to_pylist()), dtype=np.int64, count=len(ids))


def content_hashes(table: pa.Table) -> np.ndarray:
    """SHA-256 of each row's content, as an array of V32; of nothing where there is none."""
    if "content_hash" in table.column_names:
        return arrays.to_numpy(table["content_hash"].combine_chunks())
    digests = [hashlib.sha256(value or b"").digest() for value in table["content"].to_pylist()]
    return np.frombuffer(b"".join(digests), dtype="V32")


def attributes_hashes(table: pa.Table) -> np.ndarray:
    """Hash of each row's attributes with their names and types, as an array of V16."""
    if "attributes" not in table.column_names:
        return np.frombuffer(hashlib.sha256(b"").digest()[:16] * table.num_rows, dtype="V16")
    struct = table["attributes"].combine_chunks()
    head = str(struct.type).encode()
    rows = zip(*(field.to_pylist() for field in struct.flatten()), strict=True)
    digests = [
        hashlib.sha256(head + repr(row).encode("utf-8", "backslashreplace")).digest()[:16] for row in rows
    ]
    return np.frombuffer(b"".join(digests), dtype="V16")


def _with_places(table: pa.Table) -> np.ndarray:
    """Hashes of attributes and uri: media that moved are read from elsewhere from now on."""
    hashes = attributes_hashes(table)
    digests = [
        hashlib.sha256(own.tobytes() + uri.encode()).digest()[:16]
        for own, uri in zip(hashes, table["uri"].to_pylist(), strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype="V16")


def _known_rejects(snapshot: Snapshot) -> tuple[dict[str, bytes | None], set[str]]:
    """Content hash of every standing reject by item id, or by uri where there is none; and those ids."""
    known: dict[str, bytes | None] = {}
    with_id: set[str] = set()
    for _, _, table in snapshot.read("rejects", ["item_id", "uri", "content_hash"]):
        for row in table.to_pylist():
            known[row["item_id"] or row["uri"]] = row["content_hash"]
            if row["item_id"]:
                with_id.add(row["item_id"])
    return known, with_id
