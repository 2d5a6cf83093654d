"""Measure Evervec against the plain script and its own floors, for results.json and the README's table.

python -m tests.benchmarks.run            everything (about 20 minutes on two cores)
python -m tests.benchmarks.run ingest     one part, or some: see `parts` below
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks import bounded, corpus, lake, media, retrieval, table
from tests.benchmarks.timing import EVERVEC, interpreter_mb, timed

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PACKAGES = (
    "torch", "sentence-transformers", "transformers", "ray", "lancedb", "deltalake", "pyarrow", "duckdb",
    "numpy",
)  # fmt: skip


def main() -> None:
    parts = {
        "ingest": ingest,
        "unchanged": unchanged,
        "search": search,
        "start": start,
        "lake": lake.measure,
        "bounded": bounded.measure,
        "retrieval": retrieval.measure,
        "media": media.measure,
    }
    wanted = sys.argv[1:] or list(parts)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = machine()
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = parts[name](Path(folder))
        print(json.dumps({name: results[name]}, indent=1))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    if len(results) > len(parts):
        table.main()


def ingest(room: Path) -> list[dict[str, Any]]:
    """Documents per second while encoding, and whole commands, beside the plain script."""
    found = []
    for count in (3_000, 10_000):
        table = room / f"docs{count}.parquet"
        facts = corpus.write_docstrings(table, count)
        script = timed(
            [sys.executable, str(HERE / "plain_script.py"), str(table), str(room / f"script{count}")]
        )
        project(room / f"ours{count}", table, corpus.MODEL)
        ours = timed([EVERVEC, "-C", str(room / f"ours{count}"), "ingest", "docs", "--json"])
        entry = {
            **facts,
            "script": {**kept(script), "docs_per_s_encoding": rate(count, script)},
            "evervec": {**kept(ours), "docs_per_s_encoding": rate(count, ours)},
            "encode_ratio": round(script["out"]["encode_seconds"] / ours["out"]["encode_seconds"], 2),
            "whole_ratio": round(script["seconds"] / ours["seconds"], 2),
        }
        if count == 3_000:
            entry["unchanged"] = kept(
                timed([EVERVEC, "-C", str(room / f"ours{count}"), "ingest", "docs", "--json"])
            )
            edited = room / "edited.parquet"
            corpus.change(table, edited, 0.01)
            shutil.move(edited, table)
            delta = timed([EVERVEC, "-C", str(room / f"ours{count}"), "ingest", "docs", "--json"])
            entry["changed_1_percent"] = {**kept(delta), "encoded": delta["out"]["encoded"]}
        found.append(entry)
    return found


def unchanged(room: Path) -> dict[str, Any]:
    """A run without changes over 200,000 rows, beside reading and hashing them: bare, and by our sources."""
    table = room / "rows.parquet"
    corpus.write_synthetic(table, 200_000)
    project(room / "ours", table, "fake:64")
    command = [EVERVEC, "-C", str(room / "ours"), "ingest", "docs", "--json"]
    bare = [sys.executable, str(HERE / "listing_and_hashing.py"), str(table)]
    pulling = [sys.executable, str(HERE / "pull_and_hash.py"), str(room / "ours")]
    first = timed(command)
    memory = timed(command)["peak_mb"]
    rounds = [[timed(words, watch=False) for words in (command, bare, pulling)] for _ in range(9)]
    ours, floor, own_floor = (sorted(runs, key=seconds)[4] for runs in zip(*rounds, strict=True))
    return {
        "rows": 200_000,
        "first_ingest": kept(first),
        "unchanged": kept(ours),
        "listing_and_hashing_bare": kept(floor),
        "listing_and_hashing_by_the_source": kept(own_floor),
        "ratio_to_bare": round(ours["seconds"] / floor["seconds"], 2),
        "ratio_to_source": round(ours["seconds"] / own_floor["seconds"], 2),
        "memory_above_interpreter_mb": round(memory - interpreter_mb(), 1),
    }


def search(room: Path) -> dict[str, Any]:
    """One query through the reader, beside the bare LanceDB query on the same table and vectors."""
    import lancedb

    from flows.quiet import quiet_libraries
    from flows.settings import load_project
    from tasks import reader

    quiet_libraries()
    found = {}
    for rows in (3_000, 50_000):
        table = room / f"rows{rows}.parquet"
        corpus.write_synthetic(table, rows)
        folder = room / f"ours{rows}"
        project(folder, table, "fake:384")
        timed([EVERVEC, "-C", str(folder), "ingest", "docs", "--json"])
        loaded = load_project(folder)
        with reader.open(loaded) as lake:
            bare = lancedb.connect(folder / "lake" / "index").open_table(
                lake.snapshot("docs").head.index.table
            )
            columns = [n for n in bare.schema.names if n != "vector"]
            ours, theirs = [], []
            for at in range(220):
                vector = lake.embed("docs", f"query {at}")
                began = time.perf_counter()
                lake.nearest("docs", vector, 10)
                middle = time.perf_counter()
                query = bare.search(vector).distance_type("cosine").limit(10)
                if rows > 20_000:
                    query = query.refine_factor(5)
                query.select([*columns, "_distance"]).to_list()
                if at >= 20:  # warm
                    ours.append(middle - began)
                    theirs.append(time.perf_counter() - middle)
        found[str(rows)] = {
            "reader_ms": percentiles(ours),
            "bare_lancedb_ms": percentiles(theirs),
            "p50_ratio": round(float(np.median(ours) / np.median(theirs)), 2),
            "p99_ratio": round(float(np.percentile(ours, 99) / np.percentile(theirs, 99)), 2),
        }
    return found


def start(room: Path) -> dict[str, Any]:
    """How long the command line takes to answer."""
    table = room / "rows.parquet"
    corpus.write_synthetic(table, 1_000)
    project(room / "ours", table, "fake:64")
    timed([EVERVEC, "-C", str(room / "ours"), "ingest", "docs", "--json"])
    commands = {
        "help": [EVERVEC, "--help"],
        "status": [EVERVEC, "-C", str(room / "ours"), "status"],
        "sql": [EVERVEC, "-C", str(room / "ours"), "sql", "SELECT count(*) FROM docs"],
        "unchanged ingest": [EVERVEC, "-C", str(room / "ours"), "ingest", "docs"],
    }
    return {
        name: {
            "seconds": round(float(np.median([timed(words, watch=False)["seconds"] for _ in range(5)])), 3)
        }
        for name, words in commands.items()
    }


def project(folder: Path, table: Path, model: str) -> None:
    folder.mkdir(parents=True)
    (folder / "evervec.yaml").write_text(
        f'lake: ./lake\nencoders: {{enc: {{model: "{model}"}}}}\ncollections:\n  docs:\n'
        f"    source: {{kind: table, path: {table}, id: id, text: text}}\n    encoder: enc\n"
    )


def kept(run: dict[str, Any]) -> dict[str, float]:
    shown = {"seconds": round(run["seconds"], 2)}
    if run["peak_mb"] is not None:
        shown["peak_mb"] = round(run["peak_mb"])
    if "encode_seconds" in run["out"]:
        shown["encode_seconds"] = round(run["out"]["encode_seconds"], 2)
    return shown


def rate(count: int, run: dict[str, Any]) -> float:
    return round(count / run["out"]["encode_seconds"], 1)


def seconds(run: dict[str, Any]) -> float:
    return float(run["seconds"])


def percentiles(spans: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(spans) * 1000, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def machine() -> dict[str, Any]:
    described = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.partition(":")[2].strip() for x in described if x.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "packages": {p: version(p) for p in PACKAGES},
    }


if __name__ == "__main__":
    main()
