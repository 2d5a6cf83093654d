"""I/O errors at any call, and disks that are full: an error is said, nothing that was committed is lost."""

import itertools
import json
import shutil
import signal
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("job", "step", "full"),
    [
        ("one window", 7, False),
        ("one window", 13, True),
        ("ingest", 43, True),
        ("maintain", 173, False),
        ("purge", 173, False),
        ("promote", 7, False),
        ("upgrade", 131, False),
    ],
)
def test_any_call_may_fail(server, templates, tmp_path, job, step, full):
    """EIO once, or ENOSPC from then on: an error or a whole result; and the same job again finishes."""
    given = {"template": templates[job], "scratch": tmp_path, "job": job}
    done = server.ask("fail", **given, step=step, full=full)
    assert done.answer["with an error"] > 0


@pytest.mark.parametrize(
    ("calls", "error", "step"),
    [
        ("rename,renameat,renameat2,link,linkat", "ENOSPC", 1),
        ("mkdir,mkdirat", "ENOSPC", 1),
        ("openat", "EIO", 11),
    ],
)
def test_any_call_of_any_thread_may_fail(server, strace, found, tmp_path, calls, error, step):
    """The same for what LanceDB calls: errors of the system in each of its threads, the n-th of each."""
    ended = set()
    for at in itertools.count(1, step):
        lake = found("one window", f"lake-{at}")
        log = tmp_path / "trace"
        options = ["-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={at}"]
        done = server.ask("run", strace=options, lake=lake, job="one window")
        # DuckDB may abort the process where a file that it reads fails: then it is as if it were killed
        aborted = done.status == -signal.SIGABRT and "duckdb::InternalException" in done.output
        assert done.status in (0, 1) or aborted, done.output
        ended.add(0 if done.status == 0 else 1)
        seen = server.ask("look", lake=lake).answer
        assert max(1, done.told) <= seen["version"] <= max(1, done.told) + 1
        again = server.ask("run", lake=lake, job="one window")
        assert again.status == 0, again.output
        assert server.ask("finished", lake=lake, job="one window").answer["version"] == 2
        shutil.rmtree(lake)
        if "(INJECTED)" not in log.read_text():
            break
    assert ended == {0, 1}


@pytest.mark.parametrize("dead", [None, "the index is synced"])
def test_a_disk_may_be_full_at_any_byte(small_disk, found, dead):
    """On a small disk with ever more room, a window fails and leaves the version before it, until it fits.

    The same where a writer died whose index must be taken back first.
    """
    server, disk = small_disk
    lake = found("one window")
    if dead:
        assert server.ask("run", lake=lake, job="one window", step=dead).status == -signal.SIGKILL
    done = server.ask("squeeze", template=lake, disk=disk, job="one window", step=16_384)
    assert done.answer > 5


@pytest.mark.parametrize("room", [100_000, 3_000_000])
def test_an_ingest_that_fills_the_disk_says_so_and_goes_on_later(small_disk, tmp_path, room):
    """Exit code 1 and one line; what was committed stays, and the same command finishes, given room."""
    server, disk = small_disk
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    (project / "evervec.yaml").write_text(
        textwrap.dedent(f"""
            lake: {disk}/lake
            encoders: {{enc: {{model: "fake:384"}}}}
            collections:
              docs: {{source: {{kind: files, path: docs}}, encoder: enc}}
        """)
    )

    def evervec(*arguments):
        code = f"from flows.cli import main; main({['-C', str(project), *arguments]!r})"
        return server.ask("command", arguments=[sys.executable, "-c", code]).answer

    def held():
        return json.loads(evervec("sql", "SELECT count(*) AS n FROM docs", "--format", "json")["out"])[0]["n"]

    for i in range(100):
        (project / "docs" / f"{i}.txt").write_text(f"text {i}")
    assert evervec("ingest", "docs")["code"] == 0
    for i in range(100, 3000):
        (project / "docs" / f"{i}.txt").write_text(f"text {i}")
    server.ask("fill", disk=disk, leave=room)
    full = evervec("ingest", "docs")
    assert full["code"] == 1
    said = [line for line in full["err"].splitlines() if line.startswith("evervec: ")]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "kept" in said[0]
    assert "Traceback" not in full["err"]
    assert held() == 100
    server.ask("command", arguments=["rm", str(disk / "ballast")])
    assert evervec("ingest", "docs")["code"] == 0
    assert held() == 3000
