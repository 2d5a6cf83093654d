"""A collection with a long history: real records and checkpoints over data files that are empty."""

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from storage import transaction
from storage.commits import Release, succeeding
from storage.drafting import drafting
from storage.parquet import DataFile

RELEASE = Release(
    release=1,
    space_id="fake_4_00000000",
    dim=4,
    fingerprint="0",
    strategy="native",
    encoder={"model": "fake:4"},
    chunking={},
    chunking_id="0",
)


def write(lake: Path, commits: int) -> None:
    """Make `commits` versions, each with one more items file. Nothing is synced: reading is measured."""
    root = lake / "docs"
    whole, os.fsync = os.fsync, lambda _: None
    try:
        now = datetime.now(UTC)
        first = transaction.Window(
            verb="ingest", run_id="0", started_at=now, release=RELEASE, attributes=pa.struct([])
        )
        known = transaction.commit(lake, "docs", first)
        (root / "data" / "items").mkdir(parents=True)
        for number in range(2, commits + 1):
            file = DataFile(path=f"data/items/{uuid.uuid4().hex}.parquet", rows=1, bytes=0, sha256="0" * 64)
            (root / file.path).touch()
            with drafting(root, known) as draft:
                head = draft.before.head
                record = succeeding(head, verb="ingest", run_id=str(number), started_at=now)
                known = draft.publish(record.model_copy(update={"items": (file,), "total_items": number}))
    finally:
        os.fsync = whole
