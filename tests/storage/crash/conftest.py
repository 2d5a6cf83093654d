"""The server of writers that die, and lakes as the jobs find them."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Done:
    """How a fork ended (negative: by which signal), and what it printed."""

    status: int
    output: str

    @property
    def told(self):
        """The version that it was last told of, 0 if of none."""
        numbers = [int(line[4:]) for line in self.output.splitlines() if line.startswith("ACK ")]
        return numbers[-1] if numbers else 0

    @property
    def answer(self):
        """What it printed last, as JSON; it must have ended well."""
        assert self.status == 0, self.output
        return json.loads(self.output.splitlines()[-1])


class Server:
    """Asks for forks of a process that has everything imported: each is a writer, or a reader, of its own."""

    def __init__(self, *under):
        self._process = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.storage.crash.server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, what, strace=None, **arguments):
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
        self._process.stdin.write(json.dumps([what, plain, strace]) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def server():
    """One for all tests."""
    server = Server()
    yield server
    server.close()


class Templates(dict):
    """A lake for each job, made when it is first asked for."""

    def __init__(self, make):
        self._make = make

    def __missing__(self, job):
        self[job] = self._make(job)
        return self[job]


@pytest.fixture(scope="session")
def templates(server, tmp_path_factory):
    """The lake that a job finds, by its name; none where that is the first to come."""

    def make(job):
        lake = tmp_path_factory.mktemp(job.replace(" ", "-")) / "lake"
        done = server.ask("prepare", lake=lake, job=job)
        assert done.status == 0, done.output
        return lake

    return Templates(make)


@pytest.fixture
def found(templates, tmp_path):
    """The lake as a job finds it, to be spoilt."""

    def copy(job, name="lake"):
        lake = tmp_path / name
        lake.mkdir()
        if templates[job].exists():
            shutil.copytree(templates[job], lake, dirs_exist_ok=True)
        return lake

    return copy


@pytest.fixture(scope="session")
def strace():
    """strace is there; no test of what reaches the disk is skipped for want of it."""
    assert shutil.which("strace"), "these tests watch system calls: install the Debian package `strace`"


@pytest.fixture
def small_disk(tmp_path):
    """A server with a disk of 24 MB, which is there for it alone and goes with it, and the folder of that."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    for own_mounts in (["unshare", "-m"], ["unshare", "-r", "-m"]):  # as root, and as anybody
        tried = subprocess.run([*own_mounts, *mount], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            break
    else:
        pytest.fail(f"no disk can be mounted, not even in a namespace of its own: {tried.stderr}")
    server = Server(*own_mounts)
    assert server.ask("command", arguments=mount).answer["code"] == 0
    yield server, disk
    server.close()
