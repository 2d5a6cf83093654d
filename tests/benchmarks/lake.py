"""The lake at 200,000 rows × 384, beside bare pyarrow and LanceDB and beside Delta, in the same run."""

import hashlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from lancedb.index import FTS, IvfSq

from storage import compaction, sql, transaction
from storage.commits import Release
from storage.indexing import index_table
from storage.locks import lock
from storage.schemas import items_schema, vectors_schema
from storage.snapshot import Snapshot

ROWS, DIM, UPSERT = 200_000, 384, 5_000
SPACE = "bench_384_00000000"
RELEASE = Release(
    release=1, space_id=SPACE, dim=DIM, fingerprint="0", strategy="native",
    encoder={"model": "fake:384"}, chunking={}, chunking_id="0",
)  # fmt: skip
NONE = pa.struct([])
WORDS = np.array([f"w{n:04d}" for n in range(5_000)])


def measure(room: Path) -> dict[str, Any]:
    """Every figure of the lake; each pair in the same process, one after the other."""
    random = np.random.default_rng(1)
    first = _rows(random, np.arange(ROWS))
    changed = np.concatenate([random.choice(ROWS, 4_000, replace=False), np.arange(ROWS, ROWS + 1_000)])
    second = _rows(random, np.sort(changed))
    found: dict[str, Any] = {"rows": ROWS, "dim": DIM, "upserted": UPSERT}
    found["bulk"] = {
        "bare_s": _took(lambda: _bare_bulk(room / "bare", *first)),
        "evervec_s": _took(lambda: _commit(room / "lake", *first)),
        "delta_s": _took(lambda: write_deltalake(room / "delta", _plain(first[1]), mode="overwrite")),
    }
    found["reads"] = _reads(room, random)
    found["upsert"] = {
        "bare_s": _took(lambda: _bare_upsert(room / "bare", *second)),
        "evervec_s": _took(lambda: _commit(room / "lake", *second)),
        "delta_s": _took(lambda: _delta_upsert(room / "delta", second[1])),
    }
    found["reads_after_upsert"] = _reads(room, random)
    found["compaction_s"] = _took(lambda: _compact(room / "lake" / "docs"))
    found["delta_compaction_s"] = _took(lambda: DeltaTable(room / "delta").optimize.compact())
    found["log"] = _long_log(room / "long")
    return found


def _rows(random: np.random.Generator, numbers: np.ndarray) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Items, vectors and index rows of these items."""
    count = len(numbers)
    texts = [" ".join(words) for words in WORDS[random.integers(0, len(WORDS), (count, 40))]]
    matrix = random.normal(size=(count, DIM)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    ids = [f"item{n:07d}" for n in numbers]
    now = pa.array([datetime.now(UTC)] * count, pa.timestamp("us", tz="UTC"))
    nothing = {"stale_since": pa.nulls(count, now.type), "observed_at": now, "run_id": ["run"] * count}
    hashes = [hashlib.sha256(t.encode()).digest() for t in texts]
    columns = {
        "item_id": ids, "modality": ["text"] * count, "uri": ids, "text": texts,
        "bytes": [len(t) for t in texts], "content_hash": hashes,
        "attributes_hash": [h[:16] for h in hashes], **nothing,
    }  # fmt: skip
    items = pa.table(columns, schema=items_schema(NONE))
    spans = {
        "item_id": ids, "chunk_no": [0] * count, "chunk_start": [0] * count,
        "chunk_end": [len(t) for t in texts], "chunk_hash": [h[:16] for h in hashes],
        "origin": ["encoded"] * count, "basis_id": pa.nulls(count, pa.string()),
        "residual": pa.nulls(count, pa.float32()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), DIM), "run_id": ["run"] * count,
    }  # fmt: skip
    vectors = pa.table(spans, schema=vectors_schema(DIM))
    return items, vectors, index_table(items, vectors, dim=DIM, attributes=NONE)


def _commit(lake: Path, items: pa.Table, vectors: pa.Table, index: pa.Table) -> None:
    transaction.commit(
        lake,
        "docs",
        transaction.Window(
            verb="ingest", run_id="run", started_at=datetime.now(UTC), release=RELEASE, attributes=NONE,
            items=items, vectors={SPACE: vectors}, index={SPACE: index},
        ),
    )  # fmt: skip


def _bare_bulk(folder: Path, items: pa.Table, vectors: pa.Table, index: pa.Table) -> None:
    """The same two formats, the same two indexes, every file synced and hashed; no log, no masks."""
    folder.mkdir()
    _bare_parquet(folder / "items0.parquet", items)
    _bare_parquet(folder / "vectors0.parquet", vectors)
    table = lancedb.connect(folder).create_table("index", data=index, schema=index.schema)
    words = FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False, with_position=False)
    table.create_index("text", config=words)
    table.create_index("vector", config=IvfSq(distance_type="cosine"))
    _sync(folder / "index.lance")


def _bare_upsert(folder: Path, items: pa.Table, vectors: pa.Table, index: pa.Table) -> None:
    _bare_parquet(folder / "items1.parquet", items)
    _bare_parquet(folder / "vectors1.parquet", vectors)
    table = lancedb.connect(folder).open_table("index")
    merge = (
        table.merge_insert(["item_id", "chunk_no"]).when_matched_update_all().when_not_matched_insert_all()
    )
    before = set((folder / "index.lance").rglob("*"))
    merge.use_index(False).execute(index)
    _sync(folder / "index.lance", before)


def _bare_parquet(path: Path, table: pa.Table) -> None:
    vectors = "vector" in table.column_names
    pq.write_table(
        table, path, compression="zstd", compression_level=1, use_dictionary=["origin", "run_id"],
        column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"} if vectors else None,
        row_group_size=16_384, write_page_checksum=True,
    )  # fmt: skip
    _sync(path)


def _sync(place: Path, known: set[Path] = frozenset()) -> None:  # type: ignore[assignment]
    for path in (
        [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file() and p not in known]
    ):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
            os.fsync(file.fileno())


def _plain(vectors: pa.Table) -> pa.Table:
    """The columns that Delta can keep: lists for vectors, binaries without a length."""
    kept = vectors.select(["item_id", "chunk_no", "chunk_start", "chunk_end", "origin", "vector"])
    return kept.set_column(5, "vector", kept["vector"].cast(pa.list_(pa.float32())))


def _delta_upsert(folder: Path, vectors: pa.Table) -> None:
    keys = "t.item_id = s.item_id AND t.chunk_no = s.chunk_no"
    merge = DeltaTable(folder).merge(_plain(vectors), keys, source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()


def _reads(room: Path, random: np.random.Generator) -> dict[str, Any]:
    """Medians in milliseconds over connections that are kept open."""
    head = Snapshot.open(room / "lake" / "docs")
    ours = sql.connect(room / "lake", {"docs": head}, lambda c, text: _never(), lambda c, text, k: _never())
    bare = duckdb.connect()
    files = ", ".join(f"'{p}'" for p in sorted((room / "bare").glob("vectors*.parquet")))
    bare.execute(
        f"CREATE VIEW docs AS SELECT * REPLACE (vector::FLOAT[{DIM}] AS vector) FROM read_parquet([{files}])"
    )
    delta = duckdb.connect()
    theirs = ", ".join(f"'{uri}'" for uri in DeltaTable(room / "delta").file_uris())
    delta.execute(
        f"CREATE VIEW docs AS SELECT * REPLACE (vector::FLOAT[{DIM}] AS vector) FROM read_parquet([{theirs}])"
    )
    query = random.normal(size=DIM).astype(np.float32).tolist()
    statements = {
        "point_ms": ("SELECT item_id, vector FROM docs WHERE item_id = ?", ["item0123456"]),
        "top_10_ms": (
            f"SELECT item_id, array_cosine_similarity(vector, ?::FLOAT[{DIM}]) AS s FROM docs "
            "ORDER BY s DESC LIMIT 10",
            [query],
        ),
        "scan_20000_ms": ("SELECT item_id, vector FROM docs LIMIT 20000", []),
    }
    found: dict[str, Any] = {}
    for name, (statement, parameters) in statements.items():
        spans: dict[str, list[float]] = {"evervec": [], "bare": [], "delta": []}
        for _ in range(7):
            for who, connection in (("evervec", ours), ("bare", bare), ("delta", delta)):
                began = time.perf_counter()
                connection.execute(statement, parameters).fetchall()
                spans[who].append((time.perf_counter() - began) * 1000)
        found[name] = {who: round(statistics.median(times[1:]), 1) for who, times in spans.items()}
    ours.close()
    bare.close()
    delta.close()
    return found


def _never() -> Any:
    raise AssertionError("no function is called here")


def _compact(root: Path) -> None:
    with lock(root, "maintain") as lease:
        head = Snapshot.open(root)
        for group in compaction.groups(head, every_mask=True):
            head = compaction.compact(head, group, "run", datetime.now(UTC), lease)


def _long_log(lake: Path) -> dict[str, Any]:
    """10,000 records, each with a file, and what it costs to open the last."""
    from tests.benchmarks.long_log import write

    write(lake / "lake", 10_000)
    (lake / "evervec.yaml").write_text(
        "lake: ./lake\nencoders: {enc: {model: 'fake:4'}}\ncollections:\n"
        "  docs: {source: {kind: files, path: docs}, encoder: enc}\n"
    )
    (lake / "docs").mkdir()
    evervec = str(Path(sys.executable).with_name("evervec"))
    opened = [_took(lambda: Snapshot.open(lake / "lake" / "docs")) for _ in range(5)]
    status = [evervec, "-C", str(lake), "status", "docs", "--json"]
    told = [_took(lambda: subprocess.run(status, check=True, capture_output=True)) for _ in range(5)]
    return {
        "commits": 10_000,
        "open_s": round(statistics.median(opened), 3),
        "status_s": round(statistics.median(told), 3),
    }


def _took(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return round(time.perf_counter() - began, 3)
