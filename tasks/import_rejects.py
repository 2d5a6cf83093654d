"""What an import could not take: counted, and written unless it stands already."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from storage import transaction
from storage.commits import Counts
from storage.schemas import REJECTS
from storage.snapshot import Snapshot


class Rejects:
    """Rejects of a run that are yet to be written; those that stand with the same reason are only counted."""

    def __init__(self, snapshot: Snapshot, run_id: str) -> None:
        self._run_id, self._now = run_id, datetime.now(UTC)
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.standing: dict[str, tuple[str, bytes | None]] = {}
        for _, _, table in snapshot.read("rejects", ["item_id", "uri", "reason", "content_hash"]):
            for row in table.to_pylist():
                self.standing[row["item_id"] or row["uri"]] = (row["reason"], row["content_hash"])
        self._new: list[dict[str, Any]] = []

    def add(self, item_id: str | None, uri: str, stage: str, reason: str, error_type: str) -> None:
        """Note a reject. It has no content hash, lest an ingest takes the item for one it need not try."""
        self.count += 1
        self.reasons[reason] += 1
        if self.standing.get(item_id or uri, ("",))[0] != reason:
            self._new.append(
                {
                    "item_id": item_id,
                    "uri": uri,
                    "stage": stage,
                    "reason": reason,
                    "error_type": error_type,
                    "content_hash": None,
                    "run_id": self._run_id,
                    "rejected_at": self._now,
                }
            )

    def add_table(self, refused: pa.Table) -> None:
        for row in refused.drop_columns(["place"]).to_pylist():
            self.add(**row)

    def resolved(self, item_ids: list[str]) -> list[str]:
        """Those of the items whose standing reject an earlier import left."""
        return [i for i in item_ids if i in self.standing and self.standing[i][1] is None]

    @property
    def any_new(self) -> bool:
        """Whether any is yet to be written."""
        return bool(self._new)

    def put_into(self, window: transaction.Window) -> transaction.Window:
        """The window with the rejects that are yet to be written."""
        rejects, self._new = pa.Table.from_pylist(self._new, schema=REJECTS), []
        counts = window.counts + Counts(rejected=rejects.num_rows)
        return replace(window, rejects=rejects, counts=counts)
