"""Power loss: what is acknowledged was fsynced, with every folder above it; what was not may go."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.storage.crash import disk
from tests.storage.crash.disk import Disk
from tests.storage.crash.work import JOBS

pytestmark = pytest.mark.slow


def traced(server, lake, job, trace, step=None, hit=1):
    """Do a job and keep its system calls."""
    options = ["-y", "-xx", "-s", "100000000", "-e", f"trace={disk.CALLS}", "-o", str(trace)]
    done = server.ask("run", strace=options, lake=lake, job=job, step=step, hit=hit)
    assert done.status == (-9 if step else 0), done.output
    return list(disk.calls(trace.read_text()))


def require_durable(seen, version):
    """The record of a version is on the disk, with everything that it names, and its copy if it has one."""
    kept = {path.as_posix(): content for path, content in seen.files("kept").items()}
    record = kept.get(f"lake/docs/_commits/{version:020d}.json")
    assert record is not None, f"version {version} is lost"
    copy = Path(f"lake/docs/_copies/{version:020d}.json")
    assert kept.get(copy.as_posix()) == (record if copy in seen.files() else None)
    require_named(kept, record)


def require_named(kept, record):
    """Everything that a record names is on the disk."""
    said = json.loads(record)["record"]
    named = [("docs", f) for kind in ("items", "rejects", "deletes") for f in said[kind]]
    named += [("docs", f) for files in said["vectors"].values() for f in files]
    named += [(f"index/{i['table']}.lance", f) for i in said["indexes"].values() for f in i["files"]]
    for release in said["releases"]:
        named += [("docs", b["file"]) for b in [release["basis"]] if b]
    for folder, file in named:
        content = kept.get(f"lake/{folder}/{file['path']}")
        assert content is not None, f"version {said['number']}: {folder}/{file['path']} is lost"
        assert hashlib.sha256(content).hexdigest() == file["sha256"], f"{folder}/{file['path']} is torn"


def follow(seen, calls):
    """What must be on the disk at each call, is."""
    for call in calls:
        paths = seen.apply(call)
        if call.name.startswith("link") and paths and paths[-1].parent.name == "_commits":
            target = paths[-1]
            kept = {path.as_posix(): content for path, content in seen.files("kept").items()}
            record = seen.at(target)
            assert record.kept == bytes(record.now), "the record was linked before it was on the disk"
            require_named(kept, record.kept)
        for version in disk.told(call):
            require_durable(seen, version)


def project(tmp_path, templates, job):
    """A folder in which the lake is as the job finds it (none for the first ingest), and its disk."""
    folder = tmp_path / "project"
    folder.mkdir()
    if templates[job].exists():
        shutil.copytree(templates[job], folder / "lake")
    return folder, Disk(folder)


@pytest.mark.parametrize("job", JOBS)
def test_all_is_on_the_disk_before_it_is_named(server, strace, templates, tmp_path, job):
    """Files before the record, the record before its name, its name before anybody is told; all folders."""
    folder, seen = project(tmp_path, templates, job)
    follow(seen, traced(server, folder / "lake", job, tmp_path / "trace"))
    real = {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
    assert {p: c for p, c in seen.files().items() if p != Path()} == real, (
        "the trace is not all that happened"
    )
    docs = folder / "lake/docs"
    assert {p.name: p.read_bytes() for p in docs.glob("_copies/*.json")} == {
        p.name: p.read_bytes() for p in docs.glob("_commits/*.json")
    }


TWICE = [("a folder is made", n) for n in (1, 2, 3, 5, 6, 8)] + [
    ("the items file is written", 1),
    ("the index is synced", 1),
    ("rows were merged into the index", 2),
    ("the record is linked", 1),
    ("the record is linked", 3),
    ("the folder of the log is synced", 3),
]


@pytest.mark.parametrize(("step", "hit"), TWICE)
def test_what_a_dead_writer_left_is_on_the_disk_too(server, strace, templates, tmp_path, step, hit):
    """The power goes after a run that went on from where another was killed: nothing of either is lost."""
    folder, seen = project(tmp_path, templates, "ingest")
    follow(seen, traced(server, folder / "lake", "ingest", tmp_path / "trace", step, hit))
    follow(seen, traced(server, folder / "lake", "ingest", tmp_path / "trace"))
    require_durable(seen, JOBS["ingest"].offset)


@pytest.mark.parametrize(
    ("job", "step", "every"),
    [("ingest", 4, 10), ("maintain", 16, 15), ("purge", 10, 15), ("promote", 1, 10), ("upgrade", 14, 15)],
)
def test_the_power_goes_at_any_moment(server, strace, templates, tmp_path, job, step, every):
    """What was not fsynced is lost, cut, zeroed or there: the version last told of, or the next, is whole.

    In some of what is left the job is done again, and finishes by itself.
    """
    folder, _ = project(tmp_path, templates, job)
    before = tmp_path / "before"
    shutil.copytree(folder, before)
    traced(server, folder / "lake", job, tmp_path / "trace")
    scratch = tmp_path / "cut"
    scratch.mkdir()
    given = {"trace": tmp_path / "trace", "root": folder, "before": before, "scratch": scratch}
    found = server.ask("survive", **given, job=job, seed=1, step=step, every=every).answer
    assert found["states"] > 20
    assert found["finished"] > 1


def test_a_torn_manifest_of_an_index_stops_nobody(server, templates, tmp_path):
    """Readers are told that the index is damaged, and read Parquet; the next writer makes it anew."""
    done = server.ask("tear", template=templates["one window"], scratch=tmp_path, job="one window")
    assert done.answer > 40


def test_what_lancedb_was_about_to_write_is_no_damage(server, found):
    """A writer that died inside LanceDB leaves temporary files of its; the doctor passes them over."""
    lake = found("one window")
    (table,) = (lake / "index").iterdir()
    for name in (
        "_versions/.tmpayK7zx",
        "_deletions/.tmp4iGJr1",
        "data/.tmpL2QDg7",
        "_versions/7.manifest#1",
    ):
        (table / name).parent.mkdir(exist_ok=True)
        (table / name).write_bytes(b"half")
    assert server.ask("run", lake=lake, job="one window").status == 0
    assert server.ask("finished", lake=lake, job="one window").answer["version"] == 2
