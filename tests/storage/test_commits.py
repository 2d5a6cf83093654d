"""The commit log: whole records, without gaps, each number taken once."""

import json
import threading
from datetime import UTC, datetime

import pytest

from storage.commits import Commit, Counts, IndexVersion, Log, Origins, Release
from storage.errors import CommitConflict, Damaged
from storage.parquet import DataFile

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "docs")


def make(number, run_id="run"):
    """A record with a value in every field."""
    file = DataFile(path="data/items/a.parquet", rows=3, bytes=400, sha256="ab" * 32)
    return Commit(
        number=number,
        parent=number - 1,
        verb="ingest",
        run_id=run_id,
        started_at=NOW,
        committed_at=NOW,
        encode_seconds=0.1,
        counts=Counts(added=3, chunks=4),
        items=(file,),
        vectors={"space": (file, file)},
        rejects=(file,),
        deletes=(file,),
        total_items=3,
        total_rejects=0,
        spaces={"space": Origins(encoded=4)},
        attributes={"größe": "int64"},
        index=IndexVersion(table="docs__space__g1", version=7, rows=4),
        live=Release(
            release=1,
            space_id="space",
            dim=4,
            fingerprint="f" * 64,
            strategy="native",
            encoder={"model": "fake:4", "layers": None},
            chunking={"max_tokens": 8},
            chunking_id="c" * 64,
        ),
        offset="lsn 0/16 \N{GRINNING FACE}",
    )


def test_a_record_is_read_as_it_was_appended(log):
    """Every field survives the log, times with their zone and microseconds too."""
    log.append(make(1))
    assert log.read(1) == make(1)


def test_a_file_is_named_by_its_number_in_20_digits(log):
    """Names sort like the numbers they stand for."""
    log.append(make(1))
    assert [p.name for p in log.directory.iterdir()] == ["00000000000000000001.json"]
    assert log.path(2**63).name == "09223372036854775808.json"


def test_a_collection_without_commits_is_empty(log):
    """A folder that is not there is an empty log, and reading it makes none."""
    assert log.numbers() == []
    assert list(log.records()) == []
    assert not log.directory.exists()


def test_numbers_are_ascending_and_records_in_their_order(log):
    """More than nine commits come in the order of their numbers."""
    for number in range(1, 13):
        log.append(make(number, run_id=f"run{number}"))
    assert log.numbers() == list(range(1, 13))
    assert [r.run_id for r in log.records()] == [f"run{n}" for n in range(1, 13)]


def test_a_gap_is_damage(log):
    """A record that is missing between others is named; nothing behind it is believed."""
    for number in (1, 2, 3):
        log.append(make(number))
    log.path(2).unlink()
    with pytest.raises(Damaged, match=r"00000000000000000002\.json.*missing") as caught:
        list(log.records())
    assert caught.value.path == log.path(2)


def test_a_first_record_that_is_missing_is_damage(log):
    """The log begins at 1."""
    log.append(make(2))
    with pytest.raises(Damaged, match=r"00000000000000000001\.json"):
        list(log.records())


def test_a_missing_record_cannot_be_read(log):
    """Asking for a number that was never committed names the file that is not there."""
    with pytest.raises(Damaged, match=r"00000000000000000005\.json"):
        log.read(5)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"checksum": "x"}', b"\xff\xfe"])
def test_a_record_that_is_not_one_is_damage(log, content):
    """Torn, empty or foreign content in the place of a record is refused, not guessed at."""
    log.append(make(1))
    log.path(1).write_bytes(content)
    with pytest.raises(Damaged, match=r"00000000000000000001\.json") as caught:
        log.read(1)
    assert caught.value.exit_code == 5


def test_a_record_cut_anywhere_is_damage(log):
    """Wherever the end of a record is lost, it is not read."""
    log.append(make(1))
    whole = log.path(1).read_bytes()
    for kept in range(0, len(whole), 7):
        log.path(1).write_bytes(whole[:kept])
        with pytest.raises(Damaged):
            log.read(1)


def test_one_altered_byte_is_never_read_as_another_record(log):
    """A record with any byte altered is refused, unless the change leaves its meaning as it was."""
    log.append(make(1))
    whole = log.path(1).read_bytes()
    refused = 0
    for at in range(len(whole)):
        log.path(1).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert log.read(1) == make(1), f"byte {at}"
        except Damaged:
            refused += 1
    assert refused > len(whole) / 2


def test_a_changed_number_in_a_record_is_damage(log):
    """A record that was edited by hand, and is good JSON still, does not match its checksum."""
    log.append(make(1))
    document = json.loads(log.path(1).read_text())
    document["total_items"] = 4
    log.path(1).write_text(json.dumps(document))
    with pytest.raises(Damaged, match="checksum"):
        log.read(1)


def test_a_record_under_another_number_is_damage(log):
    """A record copied to another number is not that number's record."""
    log.append(make(1))
    log.path(2).write_bytes(log.path(1).read_bytes())
    with pytest.raises(Damaged, match=r"00000000000000000002\.json"):
        list(log.records())


def test_a_taken_number_is_a_conflict_and_changes_nothing(log):
    """The first record of a number stays, the second is refused and leaves no temporary file."""
    log.append(make(1, run_id="first"))
    with pytest.raises(CommitConflict, match="version 1 of 'docs'") as caught:
        log.append(make(1, run_id="second"))
    assert caught.value.exit_code == 3
    assert log.read(1).run_id == "first"
    assert [p.name for p in log.directory.iterdir()] == ["00000000000000000001.json"]


def test_of_many_writers_of_one_number_one_wins(log):
    """However many append the same number at once, exactly one succeeds and its record is whole."""
    start = threading.Barrier(8)
    won = []

    def append(run_id):
        start.wait()
        try:
            log.append(make(1, run_id=run_id))
        except CommitConflict:
            return
        won.append(run_id)

    threads = [threading.Thread(target=append, args=(f"run{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert log.read(1).run_id == won[0]
    assert [p.name for p in log.directory.iterdir()] == ["00000000000000000001.json"]


def test_other_files_are_no_records(log):
    """A temporary file that a dead writer left, or a stray note, is no commit."""
    log.append(make(1))
    for name in (".0123.tmp", "notes.json", "readme.txt", "00000000000000000002.json.bak"):
        (log.directory / name).write_text("{}")
    assert log.numbers() == [1]


def test_counts_add_up_by_name():
    """The counts of windows sum to those of their run."""
    one = Counts(added=1, updated=2, deleted=3, rejected=4, encoded=5, chunks=6)
    assert one + one == Counts(added=2, updated=4, deleted=6, rejected=8, encoded=10, chunks=12)
    assert Origins(encoded=1, mapped=2, imported=4).rows == 7
