"""Every verb on a collection larger than the memory that it may have, which the benchmark limits."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import corpus

ROWS, DIM, LIMIT_MB = 900_000, 768, 3_200
EVERVEC = str(Path(sys.executable).with_name("evervec"))


def measure(room: Path) -> dict[str, Any]:
    """Seconds of each verb under a limit on private memory (RLIMIT_DATA) of each of its processes."""
    table = room / "rows.parquet"
    corpus.write_synthetic(table, ROWS)
    (room / "evervec.yaml").write_text(
        f'lake: ./lake\nencoders: {{enc: {{model: "fake:{DIM}"}}}}\ncollections:\n  docs:\n'
        f"    source: {{kind: table, path: {table}, id: id, text: text}}\n    encoder: enc\n"
        "    max_deleted: 1.0\n"
    )
    edited = room / "edited.parquet"
    verbs: dict[str, list[str]] = {
        "ingest": ["ingest", "docs"],
        "ingest, nothing changed": ["ingest", "docs"],
        "ingest, 1 % changed": ["ingest", "docs"],
        "search": ["search", "docs", "a question"],
        "search --mode hybrid": ["search", "docs", "a question", "--mode", "hybrid"],
        "sql, exact top 10": [
            "sql",
            "SELECT item_id, array_cosine_similarity(vector, embed('docs', 'x')) AS s FROM docs "
            "ORDER BY s DESC LIMIT 10",
        ],
        "maintain": ["maintain", "docs"],
        "maintain --rebuild-index": ["maintain", "docs", "--rebuild-index"],
        "doctor --deep": ["doctor", "docs", "--deep"],
        "export --to parquet": ["export", "docs", "--to", "parquet", str(room / "parquet")],
        "export --to lance": ["export", "docs", "--to", "lance", str(room / "docs.lance")],
        "export --to delta": ["export", "docs", "--to", "delta", str(room / "delta")],
        "maintain --purge": ["maintain", "docs", "--purge", "--yes"],
    }
    took = {}
    for name, words in verbs.items():
        if name == "ingest, 1 % changed":
            corpus.change(table, edited, 0.01)
            edited.replace(table)
        took[name] = _timed([EVERVEC, "-C", str(room), *words], limited=name != "ingest")
    size = sum(p.stat().st_size for p in (room / "lake").rglob("*") if p.is_file())
    return {"rows": ROWS, "dim": DIM, "limit_mb": LIMIT_MB, "lake_mb": size // 2**20, "seconds": took}


def _timed(command: list[str], *, limited: bool) -> float:
    def limit() -> None:
        if limited:  # a large ingest runs on Ray, which reserves memory for itself beforehand
            resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_MB << 20, LIMIT_MB << 20))

    # the default pool of pyarrow maps a GiB at a time, which the limit would count though nothing is in it
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    began = time.perf_counter()
    done = subprocess.run(
        command, preexec_fn=limit, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(Path(sys.argv[1]).resolve()), indent=1))
