"""Files are hashed once and then known, but never known to be what they are not."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import parquet
from storage.errors import Damaged
from storage.parquet import DataFile
from storage.remote import Remote
from storage.verified import Verified

NOT_MEMORIES = [b"", b"{", b'{"a": [1, 2', b"\xff\xfe", b"\x00" * 100]
ALTERED = {
    "one bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "the last byte": lambda content: content[:-1] + b"!",
    "shorter": lambda content: content[:-1],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\x00",
}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "lake" / "docs"


@pytest.fixture
def memory(tmp_path):
    return tmp_path / ".evervec" / "verified.json"


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed, in any order; hashing itself goes on."""
    noted = []
    real = parquet.sha256

    def sha256(path):
        noted.append(path.name)
        return real(path)

    monkeypatch.setattr(parquet, "sha256", sha256)
    return noted


def make(root, name, content):
    """A file of the lake, and what its record says of it."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "data" / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return DataFile(path=f"data/{name}", rows=1, bytes=len(content), sha256=digest)


@pytest.fixture
def files(root):
    return [make(root, f"{k}.parquet", f"content {k}".encode() * 50) for k in range(5)]


def put_back(path, content, facts):
    """Write content into a file in place and give it the times that it had (no file system has no tick)."""
    probe = path.with_suffix(".probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= facts.st_ctime_ns:
        probe.chmod(0o600)
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_whole_files_are_hashed_once(root, files, memory, hashed):
    """Neither the same reader, nor another one, nor one in a process to come hashes them again."""
    one = Verified(memory)
    one.require(root, files)
    assert sorted(hashed) == [f"{k}.parquet" for k in range(5)]
    one.require(root, files)
    one.require(root, files[:2])
    Verified(memory).require(root, files)
    assert len(hashed) == 5
    new = make(root, "new.parquet", b"new")
    Verified(memory).require(root, [*files, new])
    assert hashed[5:] == ["new.parquet"]


def test_without_a_memory_a_reader_still_hashes_once(root, files, tmp_path, hashed):
    """What one has found lasts as long as it does, and no file is made."""
    before = sorted(tmp_path.rglob("*"))
    one = Verified()
    for _ in range(2):
        one.require(root, files)
    assert len(hashed) == 5
    Verified().require(root, files)
    assert len(hashed) == 10
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_verify_is_no_work(root, memory):
    """Without files there is no memory either."""
    Verified(memory).require(root, [])
    assert not memory.exists()


@pytest.mark.parametrize("how", ALTERED)
@pytest.mark.parametrize("known", [False, True])
def test_an_altered_file_is_refused(root, files, memory, how, known):
    """Whatever was done to its bytes, before it was ever hashed or after: the file is named."""
    if known:
        Verified(memory).require(root, files)
    path = root / files[3].path
    path.write_bytes(ALTERED[how](path.read_bytes()))
    for one in (Verified(memory), Verified(memory), Verified()):
        with pytest.raises(Damaged, match=r"3\.parquet.*is not the file that was committed") as caught:
            one.require(root, files)
        assert (caught.value.path, caught.value.exit_code) == (path, 5)
        one.require(root, files[:3])


@pytest.mark.parametrize("how", ["one bit", "the last byte", "shorter"])
def test_a_file_altered_in_place_with_its_old_time_is_refused(root, files, memory, how):
    """A changed file is found even if its modification time was set back."""
    one = Verified(memory)
    one.require(root, files)
    path = root / files[0].path
    put_back(path, ALTERED[how](path.read_bytes()), path.stat())
    for reader in (one, Verified(memory)):
        with pytest.raises(Damaged, match=r"0\.parquet"):
            reader.require(root, files)


def test_a_deleted_file_is_refused(root, files, memory):
    """That it was there once does not count."""
    one = Verified(memory)
    one.require(root, files)
    (root / files[1].path).unlink()
    for reader in (one, Verified(memory), Verified()):
        with pytest.raises(Damaged, match=r"1\.parquet.*cannot be read"):
            reader.require(root, files)


@pytest.mark.parametrize("known", [False, True])
def test_files_that_were_swapped_are_refused(root, files, memory, known):
    """Two whole files under each other's names are not what their records say."""
    one = Verified(memory)
    if known:
        one.require(root, files)
    first, second = (root / f.path for f in files[:2])
    first.rename(root / "aside")
    second.rename(first)
    (root / "aside").rename(second)
    for reader in (one, Verified(memory)):
        with pytest.raises(Damaged, match=r"[01]\.parquet"):
            reader.require(root, files)


def test_a_record_that_says_otherwise_is_not_answered_from_memory(root, files, memory):
    """Known is a file with its hash: the same file under another hash is hashed, and refused."""
    Verified(memory).require(root, files)
    other = files[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(Damaged, match=r"0\.parquet"):
        Verified(memory).require(root, [other])


def test_a_refused_file_is_not_remembered(root, files, memory, hashed):
    """It is refused again and again, until it is what it was; then it is hashed once and known."""
    path = root / files[2].path
    whole = path.read_bytes()
    path.write_bytes(whole[::-1])
    for _ in range(2):
        with pytest.raises(Damaged):
            Verified(memory).require(root, files)
    path.write_bytes(whole)
    Verified(memory).require(root, files)
    hashed.clear()
    Verified(memory).require(root, files)
    assert hashed == []


def test_a_file_that_was_touched_is_hashed_again(root, files, memory, hashed):
    """A restored copy with the same bytes is fine, and known from then on."""
    Verified(memory).require(root, files)
    path = root / files[4].path
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    hashed.clear()
    for _ in range(2):
        Verified(memory).require(root, files)
    assert hashed == ["4.parquet"]


@pytest.mark.parametrize("content", NOT_MEMORIES)
def test_a_torn_memory_is_only_a_memory(root, files, memory, hashed, content):
    """It costs hashing everything again, and is mended by that."""
    Verified(memory).require(root, files)
    memory.write_bytes(content)
    hashed.clear()
    Verified(memory).require(root, files)
    assert len(hashed) == 5
    Verified(memory).require(root, files)
    assert len(hashed) == 5


def test_a_memory_cut_anywhere_is_only_a_memory(root, files, memory):
    """Wherever its end is lost, files are verified all the same, and damage is found."""
    Verified(memory).require(root, files)
    whole = memory.read_bytes()
    (root / files[0].path).write_bytes(b"altered")
    for kept in range(0, len(whole), 40):
        memory.write_bytes(whole[:kept])
        with pytest.raises(Damaged):
            Verified(memory).require(root, files)
        Verified(memory).require(root, files[1:])


@pytest.mark.parametrize("content", [b"null", b"[]", b"17", b'"text"'])
def test_a_foreign_memory_is_only_a_memory(root, files, memory, content, hashed):
    """JSON of another shape is no memory either."""
    memory.parent.mkdir()
    memory.write_bytes(content)
    Verified(memory).require(root, files)
    assert len(hashed) == 5


def test_a_memory_of_other_entries_is_only_a_memory(root, files, memory, hashed):
    """Entries that are not what this program writes count for nothing."""
    memory.parent.mkdir()
    memory.write_text(json.dumps({str(root / f.path): None for f in files} | {"x": [1]}))
    Verified(memory).require(root, files)
    assert len(hashed) == 5


def test_a_memory_that_cannot_be_written_costs_hashing_again(root, files, tmp_path, hashed):
    """Where no file can be made, verification goes on without one."""
    (tmp_path / "blocked").write_text("a file where the folder should be")
    for _ in range(2):
        Verified(tmp_path / "blocked" / "verified.json").require(root, files)
    assert len(hashed) == 10


def test_a_memory_is_replaced_whole(root, files, memory):
    """No temporary file stays beside it, and it is one JSON document."""
    Verified(memory).require(root, files)
    assert [p.name for p in memory.parent.iterdir()] == [memory.name]
    assert set(json.loads(memory.read_bytes())) == {str(root / f.path) for f in files}


def test_readers_of_one_memory_do_not_hinder_each_other(root, files, memory):
    """Many at once verify everything; whoever saves last, the memory is whole."""
    with ThreadPoolExecutor(6) as pool:
        started = [pool.submit(Verified(memory).require, root, files) for _ in range(24)]
    assert [one.exception() for one in started] == [None] * 24
    assert len(json.loads(memory.read_bytes())) == len(files)


def test_an_object_store_is_trusted(files, hashed):
    """Its files are not fetched to be hashed: the store has checksums of its own."""
    Verified().require(Remote("no-such-bucket", "lake/docs"), files)
    assert hashed == []
