"""Locks: one holder at a time, named to the others, and never outliving its process."""

import logging
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import LakeBusy
from storage.locks import lock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from storage.errors import LakeBusy
from storage.locks import lock
print("ready", flush=True)
try:
    with lock(Path(sys.argv[1]), sys.argv[2], wait=float(sys.argv[3])):
        print("held", flush=True)
        sys.stdin.read()
except LakeBusy as error:
    print("busy", flush=True)
"""


@contextmanager
def process(collection, name="ingest", wait=0):
    """Another process that takes the lock and holds it until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(collection), name, str(wait)]
    started = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert started.stdout.readline() == "ready\n"
        yield started
    finally:
        started.kill()
        started.wait()
        started.stdin.close()
        started.stdout.close()


def said(other):
    return other.stdout.readline().strip()


@pytest.fixture
def collection(tmp_path):
    return tmp_path / "lake" / "docs"


def test_the_second_process_is_told_who_holds_the_lock(collection):
    """A held lock is refused at once, naming the collection, the process and the host."""
    with process(collection) as holder:
        assert said(holder) == "held"
        with pytest.raises(LakeBusy) as caught, lock(collection, "ingest"):
            pytest.fail("two processes hold one lock")
    message = str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in message
    assert "ingest of collection 'docs'" in message
    assert "--wait" in message
    assert caught.value.exit_code == 3


class WhenInVain(logging.Handler):
    """Does something as soon as filelock says that it could not get a lock and waits."""

    def __init__(self, then):
        super().__init__()
        self._then = then

    def emit(self, record):
        if "not acquired" in record.getMessage():
            self._then()


def test_waiting_ends_when_the_holder_does(collection, caplog):
    """With `wait`, a process that found the lock held gets it when the holder lets go of it."""
    caplog.set_level(logging.DEBUG, logger="filelock")
    with process(collection) as holder:
        assert said(holder) == "held"
        watch = WhenInVain(holder.stdin.close)
        logging.getLogger("filelock").addHandler(watch)
        try:
            with lock(collection, "ingest", wait=60):
                assert holder.wait() == 0
        finally:
            logging.getLogger("filelock").removeHandler(watch)


def test_a_short_wait_in_vain_is_refused(collection):
    """A wait that ends before the holder does ends like no wait at all."""
    with process(collection) as holder:
        assert said(holder) == "held"
        with process(collection, wait=0.1) as second:
            assert said(second) == "busy"


def test_a_killed_holder_leaves_no_lock(collection):
    """kill -9 frees the lock: the next process gets it without waiting, and is then named itself."""
    with process(collection) as holder:
        assert said(holder) == "held"
        holder.kill()
        holder.wait()
        with lock(collection, "ingest"), pytest.raises(LakeBusy) as caught, lock(collection, "ingest"):
            pytest.fail("the lock is held twice")
    assert f"process {os.getpid()} on" in str(caught.value)


def test_the_lock_is_free_after_the_block_even_after_an_error(collection):
    """Leaving the block frees the lock, however it is left."""
    with pytest.raises(ValueError, match="inside"), lock(collection, "commit"):
        raise ValueError("inside")
    with process(collection, "commit") as other:
        assert said(other) == "held"


def test_locks_of_other_names_and_collections_are_independent(collection, tmp_path):
    """An ingest does not keep a commit waiting, nor another collection."""
    with lock(collection, "ingest"):
        for where, name in ((collection, "commit"), (tmp_path / "lake" / "other", "ingest")):
            with process(where, name) as other:
                assert said(other) == "held"


def test_a_holder_that_could_not_write_its_name_is_refused_too(collection):
    """The lock is the kernel's: it holds without the note of who has it."""
    with lock(collection, "commit"):
        (collection / "_locks" / "commit.owner.json").write_text("")
        with pytest.raises(LakeBusy, match="only just started"), lock(collection, "commit"):
            pytest.fail("the lock is held twice")
