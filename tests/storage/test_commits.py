"""The commit log: whole records, without gaps, each number taken once, each kept twice."""

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.commits import (
    BasisFile,
    Calibrator,
    Commit,
    Counts,
    IndexVersion,
    Log,
    Origins,
    Release,
    sealed,
    succeeding,
    unsealed,
)
from storage.errors import CommitConflict, Damaged, NewerFormat
from storage.parquet import DataFile
from storage.schemas import FORMAT
from storage.snapshot import Snapshot

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NOT_RECORDS = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b'{"checksum": "x"}',
    b"\xff\xfe",
    b'{"checksum":"',
    b'{"checksum":"' + b"0" * 64 + b'","record":{}}',
    b'{"checksum":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}',
]
"""The last is whole by its checksum, and of no format at all."""


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
        removed=("data/items/a.parquet",) if number > 1 else (),
        total_items=3,
        total_rejects=0,
        spaces={"space": Origins(encoded=4)},
        attributes={"größe": "int64"},
        nonce="0" * 32,
        indexes={"space": IndexVersion(table="docs__space__g1", version=7, rows=4, files=(file,))},
        releases=(
            Release(
                release=1,
                space_id="space",
                dim=4,
                fingerprint="f" * 64,
                strategy="native",
                encoder={"model": "fake:4", "layers": None},
                chunking={"max_tokens": 8},
                chunking_id="c" * 64,
                version=1,
                canaries=file,
                retired=True,
                basis=BasisFile(
                    basis_id="b" * 64,
                    family="ridge",
                    direction="rows",
                    source="space",
                    target="other",
                    pairs=7,
                    metrics={"cosine": 0.1},
                    file=file,
                ),
                through=2,
                cascade=50,
                calibrators=(
                    Calibrator(space_id="space", origin="mapped", scores=(0.1, 0.2), relevance=(0.0, 1.0)),
                ),
                forced=True,
                report="reports/1/probe.json",
                upgraded_from=3,
            ),
        ),
        live_release=1,
        offset="lsn 0/16 \N{GRINNING FACE}",
        readable_from=1,
        purged_at=1,
    )


def opened(log, **options):
    """What readers of the log see: a snapshot."""
    return Snapshot.open(log.directory.parent, **options)


def torn(log, number):
    """Tear a record in both places."""
    for path in (log.path(number), log.copy(number)):
        path.write_bytes(path.read_bytes()[:-10])


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_record_is_read_as_it_was_appended(log):
    """Every field survives the log, times with their zone and microseconds too."""
    log.append(make(1))
    assert log.read(1) == log.read(1, strict=True) == make(1)


files = st.builds(
    DataFile,
    path=st.text(),
    rows=st.integers(0, 2**62),
    bytes=st.integers(0, 2**62),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
some_files = st.lists(files, max_size=3).map(tuple)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
finite = st.floats(allow_nan=False, allow_infinity=False)
bases = st.builds(
    BasisFile,
    direction=st.sampled_from(["rows", "queries"]),
    pairs=st.integers(0, 2**62),
    metrics=st.dictionaries(st.text(), finite, max_size=3),
    file=files,
)
calibrators = st.builds(
    Calibrator,
    scores=st.lists(finite, max_size=3).map(tuple),
    relevance=st.lists(finite, max_size=3).map(tuple),
)
releases = st.builds(
    Release,
    release=st.integers(1, 9),
    space_id=st.text(),
    dim=st.integers(1, 4096),
    encoder=st.dictionaries(st.text(), plain, max_size=3),
    chunking=st.dictionaries(st.text(), plain, max_size=3),
    version=st.none() | st.integers(1),
    canaries=st.none() | files,
    retired=st.booleans(),
    basis=st.none() | bases,
    through=st.none() | st.integers(1, 9),
    cascade=st.integers(0, 1000),
    calibrators=st.lists(calibrators, max_size=2).map(tuple),
    forced=st.booleans(),
    report=st.none() | st.text(),
    upgraded_from=st.none() | st.integers(1, 9),
)
origins = st.builds(Origins, encoded=st.integers(0), mapped=st.integers(0), imported=st.integers(0))
indexes = st.builds(
    IndexVersion, table=st.text(), version=st.integers(0), rows=st.integers(0), files=some_files
)
moments = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC))
records = st.builds(
    Commit,
    number=st.integers(1, 2**63),
    parent=st.integers(0),
    nonce=st.text(),
    run_id=st.text(),
    verb=st.text(),
    started_at=moments,
    committed_at=moments,
    encode_seconds=st.floats(0, 1e9),
    items=some_files,
    vectors=st.dictionaries(st.text(), some_files, max_size=3),
    removed=st.lists(st.text(), max_size=3).map(tuple),
    spaces=st.dictionaries(st.text(), origins, max_size=3),
    attributes=st.dictionaries(st.text(), st.text(), max_size=3),
    indexes=st.dictionaries(st.text(), indexes, max_size=3),
    releases=st.lists(releases, max_size=3).map(tuple),
    offset=st.none() | st.text(),
    purged_at=st.none() | st.integers(1),
)


@settings(deadline=None, database=None, derandomize=True)
@given(records)
def test_any_record_survives_its_seal(tmp_path_factory, record):
    """Whatever names, numbers and times stand in it: sealed bytes are one JSON document, and unseal to it."""
    content = sealed(record)
    path = tmp_path_factory.getbasetemp() / "record.json"
    assert Commit.model_validate(unsealed(path, content)) == record
    assert json.loads(content)["record"] == json.loads(record.model_dump_json())


def test_numbers_that_json_does_not_have_are_refused_before_they_are_stored():
    """NaN would be written as null, and no program could read the record again."""
    with pytest.raises(ValueError, match="finite number"):
        Calibrator(space_id="space", origin="encoded", scores=(float("nan"),), relevance=(0.5,))
    (release,) = make(1).releases
    with pytest.raises(ValueError, match="finite number"):
        BasisFile.model_validate({**release.basis.model_dump(), "metrics": {"cosine": float("inf")}})


def test_a_file_is_named_by_its_number_in_20_digits(log):
    """Names sort like the numbers they stand for."""
    log.append(make(1))
    assert [p.name for p in log.directory.iterdir()] == ["00000000000000000001.json"]
    assert log.path(2**63).name == "09223372036854775808.json"


def test_a_collection_without_commits_is_empty(log):
    """A folder that is not there is an empty log, and reading it makes none."""
    assert log.numbers() == []
    assert opened(log).tail == ()
    assert not log.directory.exists()
    assert not log.copies.exists()


def test_numbers_are_ascending_and_records_in_their_order(log):
    """More than nine commits come in the order of their numbers."""
    for number in range(1, 13):
        log.append(make(number, run_id=f"run{number}"))
    assert log.numbers() == list(range(1, 13))
    assert [r.run_id for r in opened(log).tail] == [f"run{n}" for n in range(1, 13)]


def test_every_record_has_a_second_copy(log):
    """What is committed lies in two places, byte for byte the same, under the same name."""
    for number in (1, 2):
        log.append(make(number))
        assert log.copy(number).read_bytes() == log.path(number).read_bytes()
        assert log.copy(number).name == log.path(number).name
    assert {p.name for p in log.copies.iterdir()} == {p.name for p in log.directory.iterdir()}


def test_a_record_without_its_copy_is_a_commit(log, caplog):
    """If the second copy cannot be written, the commit stands and one line says so."""
    log.copies.parent.mkdir(parents=True)
    log.copies.write_text("a file where the folder should be")
    log.append(make(1))
    (said,) = warnings_of(caplog)
    assert "no second copy" in said
    assert log.path(1).name in said
    assert opened(log, strict=True).head == make(1)


@pytest.mark.parametrize("lost", ["torn", "missing"])
def test_a_record_lost_in_one_place_is_read_from_the_other(log, caplog, lost):
    """Readers go on with the second copy, and are told; writers do not go on over damage."""
    for number in (1, 2, 3):
        log.append(make(number))
    for number in (2, 3):
        if lost == "torn":
            log.path(number).write_bytes(log.path(number).read_bytes()[:100])
        else:
            log.path(number).unlink()
        assert log.read(number) == make(number)
        (said,) = warnings_of(caplog)
        assert str(log.path(number)) in said
        assert "second copy" in said
        with pytest.raises(Damaged, match=log.path(number).name) as caught:
            log.read(number, strict=True)
        assert caught.value.path == log.path(number)
        caplog.clear()
    assert opened(log).tail == tuple(make(n) for n in (1, 2, 3))
    assert len(warnings_of(caplog)) == 2
    with pytest.raises(Damaged, match=log.path(2).name):
        opened(log, strict=True)


def test_a_record_that_the_disk_cannot_read_is_read_from_the_other_place(log, caplog, monkeypatch):
    """A bad sector is damage like any other: readers use the second copy, writers stop."""
    for number in (1, 2):
        log.append(make(number))
    read_bytes = Path.read_bytes

    def bad_sector(path):
        if path == log.path(1):
            raise OSError(5, "Input/output error", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", bad_sector)
    assert opened(log).tail == (make(1), make(2))
    (said,) = warnings_of(caplog)
    assert str(log.path(1)) in said
    with pytest.raises(Damaged, match=log.path(1).name):
        opened(log, strict=True)


def test_a_lost_record_keeps_its_number(log, lake, toy, commit):
    """The newest record is gone but for its copy: no later commit takes its place, nothing is written."""
    commit(toy.window({"a": toy.Item("one")}))
    commit(toy.window({"a": toy.Item("two")}))
    own = Log(lake / "docs")
    own.path(2).unlink()
    assert own.numbers() == [1, 2]
    before = {p for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts}
    with pytest.raises(Damaged, match=own.path(2).name):
        commit(toy.window({"a": toy.Item("three")}))
    assert {p for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts} == before
    assert toy.read_items(Snapshot.open(lake / "docs")) == {"a": toy.Item("two")}


def test_a_damaged_copy_matters_to_nobody(log, caplog):
    """The copy is looked at only when the record itself cannot be read."""
    log.append(make(1))
    log.copy(1).write_bytes(b"torn")
    assert opened(log, strict=True).head == make(1)
    assert warnings_of(caplog) == []


def test_the_newest_record_torn_in_both_places_is_passed_over(log, caplog):
    """Readers are served the version before, with a warning that names both; writers stop."""
    for number in (1, 2, 3):
        log.append(make(number))
    held = opened(log, at=2)
    torn(log, 3)
    snapshot = opened(log)
    assert (snapshot.version, snapshot.head) == (2, make(2))
    (said,) = warnings_of(caplog)
    assert str(log.path(3)) in said
    assert "version 2 is served" in said
    with pytest.raises(Damaged, match=log.path(3).name):
        opened(log, strict=True)
    assert held.advanced().version == 2
    with pytest.raises(Damaged, match=log.path(3).name):
        held.advanced(strict=True)


@pytest.mark.parametrize("strict", [False, True])
def test_the_only_record_torn_in_both_places_is_no_empty_collection(log, strict):
    """Before the first version there is none to serve: what was there is damaged, not absent."""
    log.append(make(1))
    torn(log, 1)
    with pytest.raises(Damaged, match=log.path(1).name):
        opened(log, strict=strict)
    assert log.numbers() == [1]


@pytest.mark.parametrize("strict", [False, True])
def test_a_record_in_the_middle_torn_in_both_places_is_damage(log, strict):
    """What came after cannot be told without it: nobody is served anything."""
    for number in (1, 2, 3):
        log.append(make(number))
    torn(log, 2)
    with pytest.raises(Damaged, match=log.path(2).name) as caught:
        opened(log, strict=strict)
    assert caught.value.path == log.path(2)
    with pytest.raises(Damaged, match=log.path(2).name):
        opened(log, at=3, strict=strict)
    assert opened(log, at=1, strict=strict).head == make(1), "what came before can be"


@pytest.mark.parametrize("strict", [False, True])
def test_a_version_that_is_asked_for_is_that_one_or_none(log, strict):
    """A version whose record is torn in both places is not answered with another one."""
    for number in (1, 2, 3):
        log.append(make(number))
    torn(log, 2)
    with pytest.raises(Damaged, match=log.path(2).name):
        opened(log, at=2, strict=strict)


def test_the_past_can_be_read_when_the_newest_record_is_torn(log):
    """Damage at the end of the log does not keep anyone from earlier versions."""
    for number in (1, 2, 3):
        log.append(make(number))
    torn(log, 3)
    assert opened(log, at=1).head == make(1)
    assert opened(log, at=2).head == make(2)
    with pytest.raises(Damaged, match=log.path(3).name):
        opened(log, at=3)


def test_a_gap_is_damage(log):
    """A record that is missing between others is named; nothing behind it is believed."""
    for number in (1, 2, 3):
        log.append(make(number))
    log.path(2).unlink()
    log.copy(2).unlink()
    with pytest.raises(Damaged, match=r"00000000000000000002\.json.*missing") as caught:
        opened(log)
    assert caught.value.path == log.path(2)


def test_a_first_record_that_is_missing_is_damage(log):
    """The log begins at 1."""
    log.append(make(2))
    with pytest.raises(Damaged, match=r"00000000000000000001\.json"):
        opened(log)


def test_a_record_that_a_listing_missed_is_not_left_out(log, monkeypatch):
    """A folder that is listed while others write into it can miss a name: versions are whole all the same."""
    for number in (1, 2, 3):
        log.append(make(number, run_id=f"run{number}"))
    scandir = os.scandir

    class Listed:
        """A listing that began before record 2 was there, and ended after record 3 was."""

        def __init__(self, folder):
            self._found = scandir(folder)

        def __enter__(self):
            return (e for e in self._found if e.name != log.path(2).name)

        def __exit__(self, *_):
            self._found.close()

    monkeypatch.setattr(os, "scandir", Listed)
    assert [r.run_id for r in opened(log).tail] == ["run1", "run2", "run3"]


def test_a_missing_record_cannot_be_read(log):
    """Asking for a number that was never committed names the file that is not there."""
    with pytest.raises(Damaged, match=r"00000000000000000005\.json"):
        log.read(5)


@pytest.mark.parametrize("content", NOT_RECORDS)
def test_a_record_that_is_not_one_is_damage(log, content):
    """Torn, empty or foreign content in the place of a record is refused, not guessed at."""
    log.append(make(1))
    log.path(1).write_bytes(content)
    with pytest.raises(Damaged, match=r"00000000000000000001\.json") as caught:
        log.read(1, strict=True)
    assert caught.value.exit_code == 5
    assert log.read(1) == make(1), "of the copy"
    log.copy(1).write_bytes(content)
    with pytest.raises(Damaged, match=r"00000000000000000001\.json") as caught:
        log.read(1)
    assert caught.value.path == log.path(1), "named is the record, not its copy"


def test_a_record_cut_anywhere_is_damage(log):
    """Wherever the end of a record is lost, it is not read."""
    log.append(make(1))
    whole = log.path(1).read_bytes()
    log.copy(1).unlink()
    for kept in range(0, len(whole), 7):
        log.path(1).write_bytes(whole[:kept])
        with pytest.raises(Damaged):
            log.read(1)
    log.path(1).write_bytes(whole + b"\n")
    with pytest.raises(Damaged):
        log.read(1)


@pytest.mark.parametrize("bit", [1, 0x20, 0x80])
def test_one_altered_byte_is_never_read_as_a_record(log, bit):
    """The checksum is over the very bytes: whichever of them is altered, the record is refused."""
    log.append(make(1))
    whole = log.path(1).read_bytes()
    log.copy(1).unlink()
    for at in range(0, len(whole)):
        log.path(1).write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        with pytest.raises(Damaged):
            log.read(1)


def test_a_changed_number_in_a_record_is_damage(log):
    """A record that was edited by hand, and is good JSON still, does not match its checksum."""
    log.append(make(1))
    document = json.loads(log.path(1).read_text())
    document["record"]["total_items"] = 4
    log.path(1).write_text(json.dumps(document, separators=(",", ":"), ensure_ascii=False))
    with pytest.raises(Damaged, match="checksum"):
        log.read(1, strict=True)
    assert log.read(1) == make(1), "of the copy"


def test_a_record_written_anew_with_other_spaces_is_damage(log):
    """The same values as other bytes are not what was committed."""
    log.append(make(1))
    log.path(1).write_text(json.dumps(json.loads(log.path(1).read_text()), indent=1))
    with pytest.raises(Damaged, match="checksum"):
        log.read(1, strict=True)


def test_a_record_under_another_number_is_damage(log):
    """A record copied to another number is not that number's record."""
    log.append(make(1))
    log.path(2).write_bytes(log.path(1).read_bytes())
    with pytest.raises(Damaged, match=r"00000000000000000002\.json.*version 1"):
        opened(log, strict=True)
    with pytest.raises(Damaged, match=r"00000000000000000002\.json.*version 1"):
        log.read(2)


def test_a_record_of_a_later_program_is_named_as_such(log):
    """A format that is not known yet is neither guessed at nor passed over as torn: update, it says."""
    log.append(make(1))
    content = sealed(make(2).model_copy(update={"format": FORMAT + 1}))
    for path in (log.path(2), log.copy(2)):
        path.write_bytes(content)
    with pytest.raises(NewerFormat, match=rf"format {FORMAT + 1}.*update Evervec"):
        log.read(2)
    for strict in (False, True):
        with pytest.raises(NewerFormat, match="update Evervec"):
            opened(log, strict=strict)


def test_a_taken_number_is_a_conflict_and_changes_nothing(log):
    """The first record of a number stays, the second is refused and leaves no temporary file."""
    log.append(make(1, run_id="first"))
    with pytest.raises(CommitConflict, match="version 1 of 'docs'") as caught:
        log.append(make(1, run_id="second"))
    assert caught.value.exit_code == 3
    assert log.read(1).run_id == "first"
    for folder in (log.directory, log.copies):
        assert [p.name for p in folder.iterdir()] == ["00000000000000000001.json"]
    assert log.copy(1).read_bytes() == log.path(1).read_bytes()


def test_of_many_writers_of_one_number_one_wins(log):
    """However many append the same number at once, exactly one succeeds, and both its copies are whole."""
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
    assert log.copy(1).read_bytes() == log.path(1).read_bytes()
    assert [p.name for p in log.directory.iterdir()] == ["00000000000000000001.json"]


def test_other_files_are_no_records(log):
    """A temporary file that a dead writer left, a folder or a stray note is no commit."""
    log.append(make(1))
    for folder in (log.directory, log.copies):
        for name in (".0123.tmp", "notes.json", "readme.txt", "00000000000000000002.json.bak", "²³.json"):
            (folder / name).write_text("{}")
        (folder / "00000000000000000003.json").mkdir()
    assert log.numbers() == [1]


def test_the_next_record_carries_on_what_holds(log):
    """What a commit does not change stands in its record too; what it brought is its own, its nonce new."""
    first = make(1).model_copy(update={"readable_from": 1, "purged_at": 1})
    made = succeeding(first, verb="promote", run_id="other", started_at=NOW)
    assert (made.number, made.parent, made.verb, made.run_id) == (2, 1, "promote", "other")
    carried = ("total_items", "total_rejects", "spaces", "attributes", "releases", "live_release")
    for name in (*carried, "offset", "readable_from", "purged_at"):
        assert getattr(made, name) == getattr(first, name), name
    assert (made.items, made.vectors, made.rejects, made.deletes, made.removed) == ((), {}, (), (), ())
    (index,) = made.indexes.values()
    assert index == first.index.model_copy(update={"files": ()}), "its files came with the first"
    assert made.counts == Counts()
    assert made.nonce != succeeding(first, verb="promote", run_id="other", started_at=NOW).nonce


def test_a_record_knows_its_releases(log):
    """The live release and its index are found by number; an unknown number is a KeyError."""
    record = make(1)
    assert record.live == record.release(1) == record.releases[0]
    assert record.index == record.indexes["space"]
    with pytest.raises(KeyError):
        record.release(2)


def test_counts_add_up_by_name():
    """The counts of windows sum to those of their run."""
    one = Counts(added=1, updated=2, deleted=3, rejected=4, encoded=5, chunks=6)
    assert one + one == Counts(added=2, updated=4, deleted=6, rejected=8, encoded=10, chunks=12)
    assert Origins(encoded=1, mapped=2, imported=4).rows == 7
