"""Lakes that earlier programs wrote: read, asked, searched and gone on with by today's.

`tests/golden/lake_format_<n>.tar.gz` was made by the last program of that format. It is never made again:
that is the point.
"""

import copy
import json
import logging
import shutil
import tarfile
from pathlib import Path

import pytest

from storage import checkpoints, commits, migrations
from storage.commits import Log, Origins
from storage.doctor import examine
from storage.errors import Damaged, NewerFormat
from storage.migrations import STEPS, migrated
from storage.releases import make_live
from storage.schemas import FORMAT
from storage.snapshot import Snapshot
from storage.vectors import Index, generation
from tasks import reader

GOLDEN = Path(__file__).parents[1] / "golden"
SPACE = "fake_16_c86507e3"
YAML = """
    lake: ./lake
    encoders: {enc: {model: "fake:16"}}
    collections:
      docs: {source: {kind: files, path: docs}, encoder: enc, max_deleted: 1.0}
      goods:
        source: {kind: table, path: goods.jsonl, id: id, text: text, attributes: [price]}
        encoder: enc
        max_deleted: 1.0
"""
FIRST = {f"{n}.txt": f"text number {n}\n" for n in range(6)}
SECOND = {n: t for n, t in FIRST.items() if n != "1.txt"} | {"2.txt": "new text\n", "7.txt": "more\n"}
DOCS = {1: FIRST, 2: SECOND, 3: SECOND}
GOODS = {
    1: {"a": ("red bicycle", 3), "b": ("blue kettle", 4)},
    2: {"a": ("red bicycle", 5), "b": ("blue kettle", 4)},
}


@pytest.fixture
def unpacked(tmp_path, make_project):
    """The lake of a format, its sources as they were last, and today's configuration."""

    def unpack(number):
        with tarfile.open(GOLDEN / f"lake_format_{number}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        made = make_project(YAML)
        for name, text in SECOND.items():
            (tmp_path / "docs" / name).write_text(text)
        write_goods(made, GOODS[2])
        return made

    return unpack


@pytest.fixture
def project(unpacked):
    """The lake of the first format."""
    return unpacked(1)


@pytest.fixture
def two(unpacked):
    """The lake of the second: two releases, of which the other is live, joined files, checkpoints."""
    return unpacked(2)


def write_goods(project, goods):
    lines = [json.dumps({"id": i, "text": text, "price": price}) for i, (text, price) in goods.items()]
    (project.root / "goods.jsonl").write_text("\n".join(lines) + "\n")


def items_at(project, collection, version):
    snapshot = Snapshot.open(project.lake / collection, at=version)
    columns = ["item_id", "text", "attributes"]
    rows = [r for _, _, t in snapshot.read("items", columns) for r in t.to_pylist()]
    assert len(rows) == snapshot.head.total_items
    return {
        r["item_id"]: (r["text"], r["attributes"]["price"]) if collection == "goods" else r["text"]
        for r in rows
    }


def ask(project, query):
    with reader.open(project) as lake:
        return lake.sql(query).to_pylist()


def records_of(project):
    """The stored bytes of all records of then."""
    found = {}
    for collection, last in (("docs", 3), ("goods", 2)):
        for number in range(1, last + 1):
            path = Log(project.lake / collection).path(number)
            found[path] = path.read_bytes()
    return found


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_the_records_are_of_the_first_format(project):
    """The golden lake is what it says it is: format 1, no second copies, nothing that came later."""
    for content in records_of(project).values():
        assert json.loads(content)["format"] == 1
    assert {p.name for p in (project.lake / "docs").iterdir()} == {"_commits", "_locks", "data"}


def test_a_record_is_read_in_todays_shape(project, caplog):
    """What the first format said in other words is there: release, index, totals; what it lacked is empty."""
    log = Log(project.lake / "docs")
    for number in (1, 2, 3):
        record = log.read(number, strict=True)
        assert (record.format, record.number, record.parent) == (FORMAT, number, number - 1)
        assert record.spaces == {SPACE: Origins(encoded=6)}
        (release,) = record.releases
        assert (release.release, release.space_id, release.dim, release.version) == (1, SPACE, 16, 1)
        assert (release.canaries, release.retired, release.encoder["model"]) == (None, False, "fake:16")
        assert record.live == release
        assert record.index == record.indexes[SPACE]
        assert (record.index.table, record.index.files) == (f"docs__{SPACE}__g1", ())
        assert (record.nonce, record.removed, record.readable_from, record.purged_at) == ("", (), 1, None)
    assert [log.read(n).total_rejects for n in (1, 2, 3)] == [1, 1, 0]
    assert [log.read(n).counts.added for n in (1, 2, 3)] == [6, 1, 0]
    assert Snapshot.open(project.lake / "goods", strict=True).head.attributes == {"price": "int64"}
    assert warnings_of(caplog) == []


def test_every_version_can_be_read(project):
    """Items, texts, attributes and rejects of each version are what they were then."""
    for version, expected in DOCS.items():
        assert items_at(project, "docs", version) == expected
        snapshot = Snapshot.open(project.lake / "docs", at=version)
        rejects = [r for _, _, t in snapshot.read("rejects", ["item_id"]) for r in t["item_id"].to_pylist()]
        assert rejects == (["empty.txt"] if version < 3 else [])
        vectors = [t.num_rows for _, _, t in snapshot.read("vectors", ["item_id"], SPACE)]
        assert sum(vectors) == len(expected)
    for version, expected in GOODS.items():
        assert items_at(project, "goods", version) == expected


def test_every_version_has_its_index(project):
    """The table of then can be opened at the version that each record names, with its rows."""
    for collection, versions in (("docs", DOCS), ("goods", GOODS)):
        for version, expected in versions.items():
            named = Snapshot.open(project.lake / collection, at=version).head.index
            table = Index(project.lake, named.table).open_at(named).table.to_arrow()
            assert named.rows == table.num_rows
            assert sorted(table["item_id"].to_pylist()) == sorted(expected)


def test_it_answers_sql(project):
    """All views of both collections, and the tables over them."""
    assert {r["item_id"]: r["text"] for r in ask(project, "SELECT item_id, text FROM docs")} == SECOND
    goods = ask(project, "SELECT item_id, text, price FROM goods")
    assert {r["item_id"]: (r["text"], r["price"]) for r in goods} == GOODS[2]
    assert ask(project, "SELECT count(*) AS n FROM docs_rejects") == [{"n": 0}]
    versions = ask(project, "SELECT version, items, chunks, rejects, release FROM docs_versions ORDER BY 1")
    assert [tuple(v.values()) for v in versions] == [(1, 6, 6, 1, 1), (2, 6, 6, 1, 1), (3, 6, 6, 0, 1)]
    assert len(ask(project, "SELECT * FROM evervec.runs")) == 5
    (release,) = ask(project, "SELECT * FROM evervec.releases WHERE collection = 'goods'")
    assert (release["live"], release["retired"], release["since_version"]) == (True, False, 1)
    same = "array_cosine_similarity(vector, embed('docs', 'more' || chr(10)))"
    (best,) = ask(project, f"SELECT item_id, {same} AS score FROM docs ORDER BY score DESC LIMIT 1")
    assert best["item_id"] == "7.txt"
    assert best["score"] == pytest.approx(1, abs=1e-5)


def test_it_is_searched(project):
    """Today's encoder of that name makes the vectors of then: the same text is found with cosine 1."""
    with reader.open(project) as lake:
        asked = (("docs", "text number 4\n", "4.txt"), ("goods", "red bicycle", "a"))
        for collection, query, item_id in asked:
            hit = lake.search(collection, query, 3).hits[0]
            assert (hit.item_id, hit.text) == (item_id, query)
            assert hit.score == pytest.approx(1, abs=1e-5)


def test_an_unchanged_source_is_unchanged(project, run_ingest):
    """Nothing is encoded again and no version is made: hashes are told as they were then."""
    before = records_of(project)
    for collection, count in (("docs", 6), ("goods", 2)):
        report = run_ingest(project, collection)
        assert (report.unchanged, report.encoded, report.added, report.updated) == (count, 0, 0, 0)
    assert records_of(project) == before
    assert Snapshot.open(project.lake / "docs").version == 3


def test_it_is_gone_on_with(project, run_ingest, caplog):
    """New versions follow in today's format; the old records stay byte for byte and can still be read."""
    before = records_of(project)
    (project.root / "docs" / "0.txt").unlink()
    (project.root / "docs" / "3.txt").write_text("three, edited\n")
    (project.root / "docs" / "8.txt").write_text("text number 4\n")
    report = run_ingest(project)
    assert (report.version, report.added, report.updated, report.deleted, report.encoded) == (4, 1, 1, 1, 1)
    write_goods(project, {"a": ("red bicycle", 6), "c": ("green lamp", 7)})
    goods = run_ingest(project, "goods").version
    assert goods > 2

    assert records_of(project) == before
    log = Log(project.lake / "docs")
    copies = sorted(p.name for p in log.copies.iterdir())
    assert copies == [log.path(3).name, log.path(4).name], "the head that it was gone on from got one"
    record = log.read(4, strict=True)
    assert (record.format, record.parent, record.index.table) == (FORMAT, 3, f"docs__{SPACE}__g1")
    assert record.nonce
    assert record.spaces == {SPACE: Origins(encoded=6)}

    third = {n: t for n, t in SECOND.items() if n != "0.txt"}
    third |= {"3.txt": "three, edited\n", "8.txt": "text number 4\n"}
    for version, expected in {**DOCS, 4: third}.items():
        assert items_at(project, "docs", version) == expected
    assert items_at(project, "goods", goods) == {"a": ("red bicycle", 6), "c": ("green lamp", 7)}
    assert items_at(project, "goods", 1) == GOODS[1]
    assert {r["item_id"]: r["text"] for r in ask(project, "SELECT item_id, text FROM docs")} == third
    with reader.open(project) as lake:
        assert lake.search("docs", "three, edited\n", 1).hits[0].item_id == "3.txt"
        assert {h.item_id for h in lake.search("docs", "text number 4\n", 2).hits} == {"4.txt", "8.txt"}
        assert lake.search("goods", "green lamp", 1).hits[0].item_id == "c"
        assert "0.txt" not in {h.item_id for h in lake.search("docs", "text number 0\n", 9).hits}
    assert warnings_of(caplog) == [], "a lock that was let go then was not left behind"


def test_a_checkpoint_holds_the_versions_of_both_formats(project, run_ingest, monkeypatch):
    """A log that began in the first format opens the same from a checkpoint as from its records."""
    monkeypatch.setattr(checkpoints, "EVERY", 4)
    (project.root / "docs" / "9.txt").write_text("nine\n")
    run_ingest(project)
    root = project.lake / "docs"
    opened = Snapshot.open(root)
    assert (opened.base.number, opened.tail) == (4, ())
    shutil.rmtree(root / "_checkpoints")
    folded = Snapshot.open(root)
    assert folded.base is None
    assert opened.state == folded.state
    assert opened.history().equals(folded.history())
    assert {p: r.tolist() for p, r in opened.masked.items()} == {
        p: r.tolist() for p, r in folded.masked.items()
    }


def test_an_index_of_then_can_be_made_anew(project, run_ingest, caplog):
    """If its table is damaged, the next writer makes the next generation, attributes and all."""
    shutil.rmtree(project.lake / "index" / f"goods__{SPACE}__g1.lance" / "_versions")
    write_goods(project, {**GOODS[2], "c": ("green lamp", 7)})
    assert run_ingest(project, "goods").version == 3
    assert len(warnings_of(caplog)) == 1
    named = Snapshot.open(project.lake / "goods").head.index
    assert named.table.startswith(f"goods__{SPACE}__g")
    assert generation(named.table) > 1
    rows = Index(project.lake, named.table).open_at(named).table.to_arrow().to_pylist()
    assert {r["item_id"]: (r["text"], r["price"]) for r in rows} == {**GOODS[2], "c": ("green lamp", 7)}


def test_an_altered_record_is_refused_or_means_the_same(project):
    """The first format's checksum is over the meaning: what passes is the record as it was."""
    path = Log(project.lake / "docs").path(2)
    whole, record = path.read_bytes(), Log(project.lake / "docs").read(2)
    refused = 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert Log(project.lake / "docs").read(2) == record, f"byte {at}"
        except Damaged:
            refused += 1
    assert refused > len(whole) / 3 / 2


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_a_torn_record_has_no_copy(project, caplog, kept):
    """In the middle it is damage; as the newest it is passed over, and writers stop."""
    log = Log(project.lake / "docs")
    log.path(3).write_bytes(log.path(3).read_bytes()[:kept])
    assert Snapshot.open(project.lake / "docs").version == 2
    assert len(warnings_of(caplog)) == 1
    with pytest.raises(Damaged, match=log.path(3).name):
        Snapshot.open(project.lake / "docs", strict=True)
    log.path(2).write_bytes(log.path(2).read_bytes()[:kept])
    with pytest.raises(Damaged, match=log.path(2).name):
        Snapshot.open(project.lake / "docs")


def test_there_is_a_step_from_every_earlier_format():
    """Steps lead from each format to the next, up to today's, and none further."""
    assert sorted(STEPS) == list(range(1, FORMAT))
    with pytest.raises(KeyError):
        migrated({"format": 0}, FORMAT)


def test_a_step_changes_nothing_but_its_result(project):
    """The document that is migrated stays as it was read; one of today's format is given back as it is."""
    path = Log(project.lake / "goods").path(2)
    document = json.loads(path.read_bytes())
    document.pop("checksum")
    before = copy.deepcopy(document)
    today = migrated(document, FORMAT)
    assert document == before
    assert today["format"] == FORMAT
    assert migrated(today, FORMAT) is today
    renamed = {"index", "live"}
    assert {k: v for k, v in today.items() if k in before and k != "format"} == {
        k: v for k, v in before.items() if k not in renamed and k != "format"
    }


DOCS_2 = {1: FIRST, 3: FIRST, 4: FIRST, 6: SECOND, 11: SECOND}
SPACES_2 = {1: SPACE, 2: "fake_24_40cb06b5"}


def test_a_record_of_the_second_format_is_read_in_todays_shape(two):
    """What it said is there, and what it could not say of releases yet has its default."""
    log = Log(two.lake / "docs")
    for number in log.numbers():
        assert json.loads(log.path(number).read_bytes())["record"]["format"] == 2
        record = log.read(number, strict=True)
        assert record.format == FORMAT
        for release in record.releases:
            assert release.space_id == SPACES_2[release.release]
            assert (release.strategy, release.basis, release.through, release.cascade) == (
                "native",
                None,
                None,
                0,
            )
            assert (release.calibrators, release.forced, release.report, release.upgraded_from) == (
                (),
                False,
                None,
                None,
            )
    head = log.read(11)
    assert [r.version for r in head.releases] == [1, 4]
    assert head.release(2).canaries is not None
    assert head.live_release == 2


def test_a_lake_of_the_second_format_is_whole(two):
    """Every version is as it was, by the checkpoints of then and without, and no check finds fault."""
    root = two.lake / "docs"
    assert examine(two.lake, "docs", deep=True) == examine(two.lake, "goods", deep=True) == []
    for version, expected in DOCS_2.items():
        assert items_at(two, "docs", version) == expected
    opened = Snapshot.open(root, strict=True)
    assert opened.base.number == 8
    shutil.rmtree(root / "_checkpoints")
    folded = Snapshot.open(root, strict=True)
    assert opened.state == folded.state
    assert opened.history().equals(folded.history())
    for release in opened.head.releases:
        with reader.open(two) as lake:
            pinned = reader.Pinned(release.release)
            hit = lake.search("docs", "text number 4\n", 1, release=pinned).hits[0]
        assert (hit.item_id, hit.score) == ("4.txt", pytest.approx(1, abs=1e-5))


def test_a_lake_of_the_second_format_is_gone_on_with(two, run_ingest, caplog):
    """New versions follow in today's format, in both spaces; the old records stay byte for byte."""
    root = two.lake / "docs"
    before = {p: p.read_bytes() for p in root.glob("_*/*.json")}
    run_ingest(two)
    assert Snapshot.open(root).version == 11, "nothing has changed since"
    (two.root / "docs" / "8.txt").write_text("eight\n")
    (two.root / "docs" / "0.txt").unlink()
    report = run_ingest(two)
    assert (report.added, report.deleted, report.encoded) == (1, 1, 1)
    head = Snapshot.open(root).head
    assert head.format == FORMAT
    assert {p: p.read_bytes() for p in before} == before
    assert head.spaces == {space: Origins(encoded=6) for space in SPACES_2.values()}
    assert make_live(root, 1, "rollback", "run").live == 1
    with reader.open(two) as lake:
        assert lake.search("docs", "eight\n", 1).hits[0].item_id == "8.txt"
    assert warnings_of(caplog) == []


def test_a_program_of_then_says_that_the_lake_is_newer(two, run_ingest, monkeypatch):
    """A record of today's format is refused with what to do, whatever keys it has; so is its checkpoint."""
    (two.root / "docs" / "8.txt").write_text("eight\n")
    run_ingest(two)
    Snapshot.open(two.lake / "docs").checkpoint()
    monkeypatch.setattr(commits, "FORMAT", 2)
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    monkeypatch.setattr(migrations, "STEPS", {1: STEPS[1]})
    with pytest.raises(NewerFormat, match="is of format 3, this program reads up to 2; update Evervec"):
        Snapshot.open(two.lake / "docs")
