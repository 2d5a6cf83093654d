"""A day in the life of a lake, by the command line alone; at its end two lakes answer alike."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EVERVEC = str(Path(sys.executable).with_name("evervec"))
CONFIG = """
    lake: ./lake
    encoders: {first: {model: "fake:16"}, second: {model: "fake:24"}}
    collections:
      docs:
        source: {kind: table, path: rows.jsonl, id: id, text: text, attributes: [price]}
        encoder: first
        max_deleted: 1.0
      other:
        source: {kind: table, path: rows.jsonl, id: id, text: text, attributes: [price]}
        encoder: second
"""
SLOWLY = """
import sys, time
import tasks.commit, storage.transaction
tasks.commit.WINDOW_CHUNKS = 40
commit = storage.transaction.commit
def slow(*given, **named):
    done = commit(*given, **named)
    print("window", flush=True)
    time.sleep(0.3)
    return done
storage.transaction.commit = slow
from flows.cli import main
main(sys.argv[1:])
"""


def evervec(folder, *words, code=0):
    """Run a command as a user would; its JSON."""
    command = [EVERVEC, "-C", str(folder), *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    return json.loads(done.stdout)


def write(folder, rows):
    lines = [json.dumps({"id": i, "text": text, "price": price}) for i, (text, price) in rows.items()]
    (folder / "rows.jsonl").write_text("\n".join(lines))


def answers(folder):
    """What a reader gets from a lake, in several ways."""
    rows = "SELECT item_id, chunk_no, text, price, vector FROM docs ORDER BY item_id, chunk_no"
    found = {"rows": evervec(folder, "sql", rows)["rows"]}
    for mode in ("vector", "text", "hybrid"):
        hits = evervec(folder, "search", "docs", "thing number 7", "--mode", mode, "-k", 20)["hits"]
        found[mode] = [(h["item_id"], h["text"], pytest.approx(h["score"], abs=1e-6)) for h in hits]
    where = evervec(folder, "search", "docs", "thing", "--where", "price < 20", "-k", 500)["hits"]
    found["where"] = sorted(h["item_id"] for h in where)
    return found


@pytest.mark.slow
def test_a_day_in_the_life(tmp_path):
    """Ingest, edit, a killed ingest, ingest, maintain, promote, rollback, promote, export, import."""
    home, away = tmp_path / "home", tmp_path / "away"
    for folder in (home, away):
        folder.mkdir()
        (folder / "evervec.yaml").write_text(textwrap.dedent(CONFIG))
    rows = {f"p{n:03d}": (f"thing number {n} " + "and more of it " * (n % 5), n) for n in range(200)}
    write(home, rows)
    assert evervec(home, "ingest", "docs")["added"] == 200

    rows |= {f"p{n:03d}": (f"thing number {n}, edited", n + 1) for n in range(0, 200, 3)}
    rows |= {f"q{n:03d}": (f"another thing, {n}", n) for n in range(100)}
    for n in range(1, 200, 10):
        del rows[f"p{n:03d}"]
    write(home, rows)
    started = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, "-C", str(home), "ingest", "docs"], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "window\n"
    assert started.stdout.readline() == "window\n"
    started.send_signal(signal.SIGKILL)
    started.wait()
    started.stdout.close()
    half = evervec(home, "status", "docs")["version"]
    assert half >= 3
    report = evervec(home, "ingest", "docs")
    assert 0 < report["encoded"] < 167
    assert evervec(home, "ingest", "docs")["encoded"] == 0
    assert evervec(home, "doctor", "docs")["findings"] == []

    assert evervec(home, "maintain", "docs", "--rebuild-index")["version"] > report["version"]
    assert evervec(home, "ingest", "other")["added"] == len(rows)
    assert evervec(home, "export", "other", "--to", "parquet", home / "second")["rows"] == len(rows)
    imported = evervec(home, "import", "docs", home / "second")
    assert (imported["rows"], imported["rejected"]) == (len(rows), 0)
    before = answers(home)
    assert evervec(home, "promote", "docs", 2)["live"] == 2
    under_second = answers(home)
    assert [r["item_id"] for r in under_second["rows"]] == [r["item_id"] for r in before["rows"]]
    assert under_second["rows"] != before["rows"]
    assert evervec(home, "rollback", "docs") | {"version": 0} == {"live": 1, "previous": 2, "version": 0}
    assert answers(home) == before
    assert evervec(home, "promote", "docs", 2)["previous"] == 1
    assert answers(home) == under_second
    assert evervec(home, "ingest", "docs")["encoded"] == 0
    assert evervec(home, "doctor", "docs", "--deep")["findings"] == []

    assert evervec(home, "export", "docs", "--to", "parquet", tmp_path / "parcel")["rows"] == len(rows)
    shutil.copy(home / "rows.jsonl", away / "rows.jsonl")
    text = (away / "evervec.yaml").read_text().replace("encoder: first", "encoder: second")
    (away / "evervec.yaml").write_text(text)
    assert evervec(away, "import", "docs", tmp_path / "parcel")["imported"] == len(rows)
    assert answers(away) == under_second
    assert evervec(away, "ingest", "docs")["encoded"] == 0, "what was brought need not be encoded again"
    assert evervec(away, "doctor", "docs", "--deep")["findings"] == []
    assert answers(away) == under_second == answers(home)
