"""Vectors and notes that searches leave: whole or not there, found by their hash, and easily lost."""

import hashlib
import os
import threading
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import kept, parquet, places, retention
from storage.doctor import examine
from storage.kept import Kept
from storage.repair import repair
from storage.snapshot import Snapshot

DIM = 3


def hash_of(name):
    return hashlib.sha256(str(name).encode()).digest()[:16]


def table(names, dim=DIM, shift=0.0):
    """Rows of chunks with these names; each vector depends on its name."""
    vectors = [vector_of(name, dim) + shift for name in names]
    columns = {
        "item_id": [f"item {name}" for name in names],
        "chunk_no": [0] * len(names),
        "chunk_hash": [hash_of(name) for name in names],
        "vector": [v.tolist() for v in vectors],
    }
    return pa.table(columns, schema=kept.kept_schema(dim))


def vector_of(name, dim=DIM):
    return np.frombuffer(hashlib.sha512(str(name).encode()).digest()[:dim], np.uint8).astype(np.float32)


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records]


@pytest.fixture
def root(lake):
    return lake / "docs"


def test_what_was_kept_is_found_by_its_hash(root):
    """The very vectors, of those that are asked for and there, each once."""
    kept.keep(root, "space", table("abc"))
    kept.keep(root, "space", table([]))
    held = Kept(root, "space", DIM)
    assert held.find([hash_of("a")]) == {}, "nothing was read yet"
    held.refresh()
    found = held.find([hash_of(n) for n in "cxac"])
    assert found.keys() == {hash_of("a"), hash_of("c")}
    for name in "ac":
        assert found[hash_of(name)].dtype == np.float32
        assert found[hash_of(name)].tolist() == vector_of(name).tolist()
    other = Kept(root, "other", DIM)
    other.refresh()
    assert other.find([hash_of("a")]) == {}
    assert held.find([]) == {}


@settings(deadline=None, derandomize=True, database=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12))
def test_any_sequence_of_files_is_found_whole(tmp_path_factory, windows):
    """However the files are cut and whatever is in several of them: everything that was kept is found."""
    root = tmp_path_factory.mktemp("kept")
    held, there = Kept(root, "space", DIM), set()
    for names in windows:
        kept.keep(root, "space", table(names))
        there |= set(names)
        held.refresh()
        found = held.find([hash_of(n) for n in range(70)])
        assert {h: v.tolist() for h, v in found.items()} == {hash_of(n): vector_of(n).tolist() for n in there}


def test_hashes_that_end_in_zeros_are_told_apart(root):
    """They are compared as 16 bytes, not as texts that end at a zero."""
    names = [b"\1" + bytes(15), bytes(16), b"\1\0\1" + bytes(13)]
    rows = table("abc").set_column(2, "chunk_hash", pa.array(names, pa.binary(16)))
    kept.keep(root, "space", rows)
    held = Kept(root, "space", DIM)
    held.refresh()
    assert {h: v.tolist() for h, v in held.find(names).items()} == {
        h: vector_of(n).tolist() for h, n in zip(names, "abc", strict=True)
    }
    assert held.find([bytes(15) + b"\1"]) == {}


def test_only_new_files_are_read(root, monkeypatch):
    """A refresh lists the folder and opens what it has not seen, discarded files it forgets."""
    read, whole = [], places.read
    monkeypatch.setattr(places, "read", lambda path: read.append(path.name) or whole(path))
    held = Kept(root, "space", DIM)
    kept.keep(root, "space", table("a"))
    held.refresh()
    held.refresh()
    (first,) = kept.files(root, "space")
    kept.keep(root, "space", table("b"))
    held.refresh()
    assert read[0] == first
    assert len(read) == 2
    kept.discard(root, "space", [first])
    held.refresh()
    assert held.find([hash_of("a"), hash_of("b")]).keys() == {hash_of("a"), hash_of("b")}
    assert len(read) == 2


def damages(content):
    yield b""
    for at in range(0, len(content), 41):
        yield content[:at] if at % 2 else content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def test_a_file_that_is_not_whole_is_passed_over_with_one_warning(root, caplog):
    """Cut, altered, or something else: what is found is right, and the good files are used."""
    kept.keep(root, "space", table(range(40)))
    (name,) = kept.files(root, "space")
    folder = root / "_kept" / "space"
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    expected = {hash_of(n): vector_of(n).tolist() for n in range(40)}
    refused = 0
    for bad in damages(content):
        (folder / name).write_bytes(bad)
        held = Kept(root, "space", DIM)
        held.refresh()
        held.refresh()
        found = {h: v.tolist() for h, v in held.find(list(expected)).items()}
        assert found in ({}, expected)
        refused += not found
        assert len(warnings_of(caplog)) == (not found)
        caplog.clear()
        assert [t.num_rows for t in kept.rows(root, "space", [name])] == ([] if not found else [40])
        caplog.clear()
    assert refused > 10


def test_files_of_another_kind_are_no_vectors(root, caplog):
    """Other dims, other columns, nulls: each is passed over, and the rest is used."""
    kept.keep(root, "space", table("a"))
    kept.keep(root, "space", table("b", dim=DIM + 1))
    (root / "_kept/space/notes.txt").write_text("not ours")
    fields = [field.with_nullable(True) for field in kept.kept_schema(DIM)]
    nulls = table("c").cast(pa.schema(fields)).set_column(1, fields[1], pa.nulls(1, pa.int32()))
    for digit, other in enumerate((table("b").drop_columns(["chunk_no"]), nulls)):
        path = root / "_kept/space" / f"{digit:032x}.parquet"
        places.spool(path, parquet.serialized(other))
    held = Kept(root, "space", DIM)
    held.refresh()
    assert held.find([hash_of(n) for n in "abc"]).keys() == {hash_of("a")}
    assert len(warnings_of(caplog)) == 3
    assert len(kept.files(root, "space")) == 4


def test_what_was_folded_in_is_discarded_and_nothing_else(root):
    """A file that came after the listing stays; one that is gone already is no error."""
    kept.keep(root, "space", table("ab"))
    names = kept.files(root, "space")
    kept.keep(root, "space", table("c"))
    (rows,) = kept.rows(root, "space", [*names, "f" * 32 + ".parquet"])
    assert rows.equals(table("ab"))
    kept.discard(root, "space", [*names, "f" * 32 + ".parquet"])
    (left,) = kept.files(root, "space")
    assert next(kept.rows(root, "space", [left])).equals(table("c"))


def test_many_writers_and_a_reader_at_once(root):
    """No file is lost and none is seen half: the reader ends up with all, and is never warned."""
    writers = [
        threading.Thread(
            target=lambda w=w: [kept.keep(root, "space", table([w * 50 + n])) for n in range(50)]
        )
        for w in range(4)
    ]
    held = Kept(root, "space", DIM)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        held.refresh()
    held.refresh()
    asked = [hash_of(n) for n in range(200)]
    assert {h: v.tolist() for h, v in held.find(asked).items()} == {
        hash_of(n): vector_of(n).tolist() for n in range(200)
    }
    assert not list(root.rglob("*.tmp"))


def test_a_writer_that_died_leaves_nothing_that_is_read(root, monkeypatch):
    """Killed between writing and naming: a temporary file, which no reader takes for one of the spool."""
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        kept.keep(root, "space", table("a"))
    monkeypatch.undo()
    assert kept.files(root, "space") == []
    held = Kept(root, "space", DIM)
    held.refresh()
    assert held.find([hash_of("a")]) == {}


def test_notes_are_counted_and_forgotten(root, caplog):
    """How often each item was a candidate, over all notes; what came meanwhile stays."""
    assert kept.noted(root) == ({}, [])
    kept.note(root, ["a", "b/ü", "a"])
    kept.note(root, ["a"])
    kept.note(root, [])
    (root / "_asked" / ("0" * 32 + ".json")).write_bytes(b'["a"')
    (root / "_asked" / ("1" * 32 + ".json")).write_bytes(b"7")
    counts, names = kept.noted(root)
    assert counts == {"a": 3, "b/ü": 1}
    assert len(names) == 4
    assert len(warnings_of(caplog)) == 2
    kept.note(root, ["c"])
    kept.forget(root, names)
    assert kept.noted(root)[0] == {"c": 1}


def test_spools_in_an_object_store(s3):
    """The same there."""
    root = s3 / "docs"
    kept.keep(root, "space", table("ab"))
    kept.note(root, ["a"])
    held = Kept(root, "space", DIM)
    held.refresh()
    assert held.find([hash_of("b")])[hash_of("b")].tolist() == vector_of("b").tolist()
    counts, names = kept.noted(root)
    assert counts == {"a": 1}
    kept.forget(root, names)
    kept.discard(root, "space", kept.files(root, "space"))
    assert list(places.walk(root)) == []


@pytest.fixture
def spooled(tale, lake):
    """A collection with two releases, and vectors and notes beside it."""
    tale.grow(2)
    root = lake / "docs"
    for space in (tale.toy.SPACE, tale.toy.SECOND_SPACE, "gone_3_00000000"):
        kept.keep(root, space, table("ab"))
    kept.note(root, ["a"])
    return root


def spools(root):
    return sorted(
        {e.path.rpartition("/")[0] for e in places.walk(root) if e.path.startswith(("_kept", "_asked"))}
    )


def test_a_purge_empties_the_spools(spooled, purge):
    """They may hold vectors of what was deleted, and ids of it."""
    purge()
    assert spools(spooled) == []


def test_the_sweep_takes_the_spools_of_spaces_that_nobody_has(spooled, lake, toy, maintain):
    """Once they are old; those of spaces in use stay, however old."""
    assert maintain().removed == 0
    everything = spools(spooled)
    for entry in list(places.walk(spooled)):
        os.utime(spooled / entry.path, (1, 1))
    files, _ = retention.unneeded(lake, Snapshot.open(spooled))
    assert {e.path.split("/")[1] for e in files if e.path.startswith("_kept")} == {"gone_3_00000000"}
    maintain()
    assert spools(spooled) == [s for s in everything if "gone" not in s]
    assert retention.unneeded(lake, Snapshot.open(spooled), timedelta(0))[0] == []


def test_the_doctor_says_nothing_about_spools_but_about_what_is_torn_or_strange(spooled, lake):
    """Leftovers of writers that died are told and removed; a file that is not ours is named."""
    assert examine(lake, "docs") == []
    torn = spooled / "_kept" / "x" / f".{'a' * 32}.tmp"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    os.utime(torn, (1, 1))
    strange = spooled / "_asked" / "list.txt"
    strange.write_text("a")
    found = {f.path: f.severity for f in examine(lake, "docs")}
    assert found == {str(torn): "notice", str(strange): "damage"}
    repair(lake, "docs")
    assert not torn.exists()
    assert strange.exists()
