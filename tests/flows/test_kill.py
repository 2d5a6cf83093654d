"""kill -9 in the middle of an ingest: readers see whole windows, and the same command finishes the rest."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage.snapshot import Snapshot
from storage.vectors import Index
from tasks import reader

EVERVEC = str(Path(sys.executable).with_name("evervec"))
STEPS = {
    "Parquet files are written": "storage.transaction._masks",
    "the index is written": "storage.commits.Log.append",
    "the record is written, not yet linked": "storage.places.os.link",
    "the record is linked": "tasks.commit.transaction.commit",
}
KILLER = """
import os, signal, sys
import storage.transaction, storage.commits, tasks.commit, storage.vectors
from pydoc import locate
tasks.commit.WINDOW_CHUNKS = 4
owner_name, _, name = {target!r}.rpartition(".")
owner = locate(owner_name)
whole, calls = getattr(owner, name), [0]
def dying(*args, **options):
    calls[0] += 1
    if {after}:
        done = whole(*args, **options)
    if calls[0] == {hit}:
        os.kill(os.getpid(), signal.SIGKILL)
    return done if {after} else whole(*args, **options)
setattr(owner, name, dying)
from flows.cli import main
main(["-C", {folder!r}, "ingest", "docs"])
"""


def die(project, target: str, hit: int) -> None:
    """Run an ingest that kills itself at the `hit`-th time it comes to `target`."""
    after = target == "tasks.commit.transaction.commit"
    script = KILLER.format(target=target, after=after, hit=hit, folder=str(project.root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def model_of(project):
    return {p.name: p.read_text() for p in (project.root / "docs").iterdir()}


def check_against(project, expected):
    """Items, chunks and index rows are those of `expected`, each exactly once."""
    with reader.open(project) as lake:
        rows = lake.sql("SELECT item_id, text FROM docs ORDER BY item_id").to_pylist()
        assert [(r["item_id"], r["text"]) for r in rows] == sorted(expected.items())
    head = Snapshot.open(project.lake / "docs").head
    table = Index(project.lake, head.index.table).open_at(head.index).table.to_arrow().to_pylist()
    assert sorted((r["item_id"], r["text"]) for r in table) == sorted(expected.items())


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.slow
def test_a_run_killed_at_any_step_is_finished_by_the_same_command(make_project, run_ingest, step, hit):
    """First and second window, every step: nothing lost, nothing twice, only the rest is encoded."""
    project = make_project()
    for i in range(6):
        (project.root / f"docs/{i}.txt").write_text(f"text {i}")
    run_ingest(project)
    before = model_of(project)
    for i in range(4, 14):
        (project.root / f"docs/{i}.txt").write_text(f"new text {i}")
    (project.root / "docs/0.txt").unlink()
    after = model_of(project)
    die(project, STEPS[step], hit)

    durable = Snapshot.open(project.lake / "docs").version - 1
    assert durable == (hit if step == "the record is linked" else hit - 1)
    changed = [name for name, text in sorted(after.items()) if before.get(name) != text]
    seen = {**before, **{name: after[name] for name in changed[: 4 * durable]}}
    with reader.open(project) as lake:
        rows = lake.sql("SELECT item_id, text FROM docs").to_pylist()
    assert {r["item_id"]: r["text"] for r in rows} == seen

    done = subprocess.run(
        [EVERVEC, "-C", str(project.root), "ingest", "docs", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["encoded"] == len(changed) - 4 * durable
    check_against(project, after)


def test_a_first_run_killed_before_its_commit_leaves_an_empty_collection(make_project, run_ingest):
    """What no record names does not exist: neither for readers nor for the next run."""
    project = make_project()
    for i in range(6):
        (project.root / f"docs/{i}.txt").write_text(f"text {i}")
    die(project, STEPS["the index is written"], 1)
    assert Snapshot.open(project.lake / "docs").version == 0
    assert run_ingest(project).added == 6
    check_against(project, model_of(project))
