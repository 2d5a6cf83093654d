"""Locks: one holder at a time, named to the others, and never outliving its process."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
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


def sign(collection, name="ingest"):
    """The note of who holds a lock."""
    return collection / "_locks" / f"{name}.owner.json"


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_released_lock_leaves_no_owner(collection, caplog):
    """Who lets go takes the note away, however the block ends; nobody after is told of a takeover."""
    with lock(collection, "ingest") as held:
        assert json.loads(sign(collection).read_text())["pid"] == os.getpid()
        assert held.still_held()
    assert not sign(collection).exists()
    assert not held.still_held()
    with pytest.raises(ValueError, match="inside"), lock(collection, "ingest"):
        raise ValueError("inside")
    assert not sign(collection).exists()
    with lock(collection, "ingest"):
        pass
    assert warnings_of(caplog) == []


def test_a_lock_left_by_a_killed_process_is_taken_over_with_one_line(collection, caplog):
    """The line names the lock and who left it; then it is held as ever, and said no more."""
    with process(collection) as holder:
        assert said(holder) == "held"
        holder.kill()
        holder.wait()
        with lock(collection, "ingest") as held:
            assert held.still_held()
        (line,) = warnings_of(caplog)
    assert f"process {holder.pid} on {socket.gethostname()}" in line
    assert "ingest.lock" in line
    assert "taken over" in line
    with lock(collection, "ingest"):
        assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("content", ["", "{", '{"host": "there"}', "[]"])
def test_a_note_that_cannot_be_read_keeps_nobody_out(collection, content):
    """The lock is the kernel's: a note torn with its process says nothing, and is replaced."""
    sign(collection).parent.mkdir(parents=True)
    sign(collection).write_text(content)
    with lock(collection, "ingest") as held:
        assert held.still_held()
    assert not sign(collection).exists()


def test_a_note_of_the_first_version_is_no_takeover(collection, caplog):
    """It kept the note of a lock that was let go in good order: nobody left anything behind."""
    sign(collection).parent.mkdir(parents=True)
    sign(collection).write_text('{"host": "there", "pid": 1, "since": "2026-01-02T00:00:00+00:00"}')
    with lock(collection, "ingest"):
        pass
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("content", [None, "", "{", '{"nonce": "of another"}', "[]"])
def test_a_note_removed_or_replaced_is_a_lock_lost(collection, content):
    """A holder asks again: whose note is gone, torn or another's does not hold the lock any more."""
    with lock(collection, "ingest") as held:
        assert held.still_held()
        if content is None:
            sign(collection).unlink()
        else:
            sign(collection).write_text(content)
        assert not held.still_held()
    assert sign(collection).exists() == (content is not None), "what is not one's own is left alone"


def test_locks_removed_by_hand_let_another_in_and_the_first_one_out(collection):
    """After `rm -r _locks` another process can hold the lock; the first knows, and leaves its note alone."""
    with lock(collection, "ingest") as held:
        shutil.rmtree(collection / "_locks")
        assert not held.still_held()
        with process(collection) as other:
            assert said(other) == "held"
            assert not held.still_held()
            note = sign(collection).read_text()
            assert json.loads(note)["pid"] == other.pid
            with pytest.raises(LakeBusy, match=f"process {other.pid}"), lock(collection, "ingest"):
                pytest.fail("the lock is held twice")
    assert not held.still_held()


def test_letting_go_of_a_lost_lock_does_not_take_it_from_its_new_holder(collection):
    """The end of a block that lost its lock changes nothing for who has it now."""
    with ExitStack() as stack:
        with lock(collection, "commit"):
            shutil.rmtree(collection / "_locks")
            other = stack.enter_context(process(collection, "commit"))
            assert said(other) == "held"
            note = sign(collection, "commit").read_text()
        assert sign(collection, "commit").read_text() == note
        with pytest.raises(LakeBusy, match=f"process {other.pid}"), lock(collection, "commit"):
            pytest.fail("the lock is held twice")


def test_two_holders_in_turn_have_different_leases(collection):
    """A lease is one holding: the next one of the same process does not revive it."""
    with lock(collection, "ingest") as first:
        pass
    with lock(collection, "ingest") as second:
        assert second.still_held()
        assert not first.still_held()
