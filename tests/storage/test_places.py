"""Files of a local lake: whole or not there, one winner where several create, durable in the right order."""

import hashlib
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import places
from storage.places import Entry
from storage.remote import Remote

ROOT = Path(__file__).parents[2]
CREATE = """
import sys
from pathlib import Path
from storage import places
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    try:
        places.create(Path(sys.argv[1]) / f"{number}.json", sys.argv[2].encode() * 9000)
    except FileExistsError:
        continue
    print(number, flush=True)
"""


def left_in(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_created_file_is_what_was_given(tmp_path):
    """Every byte arrives, missing folders are made, and nothing else is left in them."""
    file = tmp_path / "a" / "b" / "c.json"
    places.create(file, b"\x00one\n\xff")
    assert places.read(file) == file.read_bytes() == b"\x00one\n\xff"
    assert left_in(file.parent) == ["c.json"]


def test_creating_what_is_there_changes_nothing(tmp_path):
    """The first file stays as it is, the second try fails and leaves no temporary file."""
    file = tmp_path / "a.json"
    places.create(file, b"first")
    with pytest.raises(FileExistsError):
        places.create(file, b"second")
    assert file.read_bytes() == b"first"
    assert left_in(tmp_path) == ["a.json"]


def test_of_many_threads_that_create_one_file_one_succeeds(tmp_path):
    """Exactly one wins, and the file is wholly its own."""
    start, won = threading.Barrier(8), []

    def create(content):
        start.wait()
        try:
            places.create(tmp_path / "a.json", content)
        except FileExistsError:
            return
        won.append(content)

    threads = [threading.Thread(target=create, args=(bytes([65 + k]) * 100_000,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "a.json").read_bytes()] == won
    assert left_in(tmp_path) == ["a.json"]


def test_of_many_processes_that_create_the_same_files_each_file_has_one_maker(tmp_path):
    """Processes that race for a row of names share them out: none twice, none torn, none left over."""
    names, makers = 60, "abc"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, str(tmp_path), maker, str(names)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for maker in makers
    ]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * len(makers)
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    made = {maker: process.communicate()[0].split() for maker, process in zip(makers, started, strict=True)}
    assert all(process.returncode == 0 for process in started)
    assert sorted(n for found in made.values() for n in found) == sorted(map(str, range(names)))
    for maker, found in made.items():
        assert all((tmp_path / f"{n}.json").read_text() == maker * 9000 for n in found)
    assert len(left_in(tmp_path)) == names


def test_replacing_is_atomic(tmp_path):
    """Who reads while a file is replaced again and again gets one whole content or another."""
    file = tmp_path / "a" / "b.json"
    contents = {bytes([65 + k]) * 50_000 for k in range(4)}
    places.replace(file, b"A" * 50_000)
    done, torn = threading.Event(), []

    def read():
        while not done.is_set():
            found = places.read(file)
            if found not in contents:
                torn.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    for content in sorted(contents) * 40:
        places.replace(file, content)
    done.set()
    reader.join()
    assert torn == []
    assert left_in(file.parent) == ["b.json"]


@pytest.mark.parametrize("write", [places.create, places.replace])
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch, write):
    """What could not be written whole is not there, under no name; what was there before still is."""
    places.create(tmp_path / "old.json", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for name in ("old.json", "new.json"):
        with pytest.raises(OSError, match="No space left"):
            write(tmp_path / name, b"x" * 10_000)
    monkeypatch.undo()
    assert (tmp_path / "old.json").read_bytes() == b"old"
    assert left_in(tmp_path) == ["old.json"]


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the operating system, in order: (call, path that it concerns)."""
    noted = []
    real = {name: getattr(os, name) for name in ("fsync", "link", "replace", "mkdir")}

    def fsync(handle):
        noted.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}"))))
        real["fsync"](handle)

    def link(source, target, **more):
        noted.append(("link", Path(target)))
        real["link"](source, target, **more)

    def replace(source, target, **more):
        noted.append(("replace", Path(target)))
        real["replace"](source, target, **more)

    def mkdir(path, *rest, **more):
        noted.append(("mkdir", Path(path)))
        real["mkdir"](path, *rest, **more)

    for name, noting in (("fsync", fsync), ("link", link), ("replace", replace), ("mkdir", mkdir)):
        monkeypatch.setattr(os, name, noting)
    return noted


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files: Linux")


@needs_proc
@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_file_is_durable_before_its_name_and_its_name_on_return(tmp_path, calls, call):
    """First the bytes are synced, under another name; then they get their own; then the folder is synced."""
    file = tmp_path / "a.json"
    (places.create if call == "link" else places.replace)(file, b"content")
    assert [name for name, _ in calls] == ["fsync", call, "fsync"]
    temporary, named, folder = (path for _, path in calls)
    assert temporary.parent == tmp_path
    assert temporary != file
    assert (named, folder) == (file, tmp_path)


@needs_proc
def test_new_folders_are_durable_from_the_top_down(tmp_path, calls):
    """Each folder is synced into its parent before anything is made in it."""
    places.create(tmp_path / "a" / "b" / "c.json", b"content")
    a, b = tmp_path / "a", tmp_path / "a" / "b"
    assert calls[:4] == [("mkdir", a), ("fsync", tmp_path), ("mkdir", b), ("fsync", a)]
    assert calls[-1] == ("fsync", b)


@needs_proc
def test_what_goes_through_a_sink_is_durable_when_it_is_finished(tmp_path, calls):
    """The file is synced, then its folder; size and hash are those of its bytes."""
    sink = places.sink(tmp_path / "data" / "a.parquet")
    calls.clear()
    for piece in (b"one", memoryview(b"two"), b""):
        sink.write(piece)
    assert sink.finish() == hashlib.sha256(b"onetwo").hexdigest()
    assert calls == [("fsync", tmp_path / "data" / "a.parquet"), ("fsync", tmp_path / "data")]
    assert (sink.size, (tmp_path / "data/a.parquet").read_bytes()) == (6, b"onetwo")


def test_a_sink_that_is_abandoned_leaves_nothing(tmp_path):
    """A file whose writing failed is not there."""
    sink = places.sink(tmp_path / "data" / "a.parquet")
    sink.write(b"half")
    sink.abandon()
    assert left_in(tmp_path / "data") == []


def test_a_sink_never_writes_over_a_file(tmp_path):
    """Data files are immutable: a name that is taken is an error."""
    (tmp_path / "a.parquet").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        places.sink(tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == b"old"


def test_a_folder_that_is_not_there_has_no_files(tmp_path):
    """Listing what is missing, or is a file, finds nothing and makes nothing."""
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "missing", tmp_path / "missing" / "deeper", tmp_path / "file"):
        assert places.names(folder) == []
        assert list(places.walk(folder)) == []
    assert left_in(tmp_path) == ["file"]


def test_names_are_those_of_the_files_directly_in_a_folder(tmp_path):
    """Folders and what lies in them are not among them; odd names are."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "below.txt").write_text("x")
    odd = ["a.json", ".hidden", "with space", "it's", "\N{GRINNING FACE}", "line\nbreak"]
    for name in odd:
        (tmp_path / name).write_text("x")
    assert sorted(places.names(tmp_path)) == sorted(odd)


def test_walking_finds_every_file_with_size_and_time(tmp_path):
    """Paths are relative and have slashes, however deep; empty folders are nothing."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for path, size in (("one", 1), ("a/two", 2), ("a/b/three", 3)):
        (tmp_path / path).write_bytes(b"x" * size)
        os.utime(tmp_path / path, (size, 1_000_000_000 + size))
    found = sorted(places.walk(tmp_path), key=lambda entry: entry.bytes)
    assert found == [
        Entry(path, size, datetime.fromtimestamp(1_000_000_000 + size, UTC))
        for path, size in (("one", 1), ("a/two", 2), ("a/b/three", 3))
    ]


def test_a_file_that_vanishes_during_a_walk_is_left_out(tmp_path):
    """Others may remove files meanwhile; a link that leads nowhere looks the same."""
    (tmp_path / "there").write_text("x")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert [entry.path for entry in places.walk(tmp_path)] == ["there"]


def test_removing_what_is_not_there_is_no_error(tmp_path):
    """A removal that is repeated is one removal."""
    (tmp_path / "a").write_text("x")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    for _ in range(2):
        places.remove(tmp_path / "a")
        places.remove_tree(tmp_path / "tree")
    assert left_in(tmp_path) == []
    assert not places.exists(tmp_path / "a")


def test_a_missing_file_cannot_be_read(tmp_path):
    """Reading says which file is not there."""
    for read in (places.read, places.opened):
        with pytest.raises(FileNotFoundError, match="nothing"):
            read(tmp_path / "nothing.json")


def test_a_place_is_parsed_as_the_configuration_names_it():
    """`s3://` is an object store, anything else a folder."""
    assert places.parse("./lake") == Path("lake")
    assert places.parse("/elsewhere/lake") == Path("/elsewhere/lake")
    assert places.parse("s3://bucket/some/prefix") == Remote("bucket", "some/prefix")


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=50)), max_size=12))
def test_files_are_a_dict(tmp_path_factory, steps):
    """Created, replaced and removed files are what a dict would hold."""
    folder, model = tmp_path_factory.mktemp("files"), {}
    for turn, (name, content) in enumerate(steps):
        if turn % 3 == 0:
            try:
                places.create(folder / name, content)
            except FileExistsError:
                assert name in model
            else:
                assert name not in model
                model[name] = content
        elif turn % 3 == 1:
            places.replace(folder / name, content)
            model[name] = content
        else:
            places.remove(folder / name)
            model.pop(name, None)
        assert {n: places.read(folder / n) for n in places.names(folder)} == model
