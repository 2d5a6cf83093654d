"""FORMAT.md is enough to write a reader: here is one, and it reads what we read.

`Reader` knows the page and nothing else: of this project it imports nothing.
"""

import copy
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage import checkpoints
from storage.commits import BasisFile, Calibrator, Log
from storage.errors import VersionGone
from storage.releases import make_live
from storage.snapshot import Snapshot

GOLDEN = Path(__file__).parents[2] / "golden"
KINDS = ("items", "rejects", "deletes")
KEYS = {"items": ["item_id"], "vectors": ["item_id", "chunk_no"]}


class Refused(Exception):
    """What a reader must not read."""


class Reader:
    """A collection, read as FORMAT.md says."""

    def __init__(self, collection, *, with_checkpoints):
        self.root, self.with_checkpoints = Path(collection), with_checkpoints

    def numbers(self):
        """Every version, from both folders."""
        found = [p for name in ("_commits", "_copies") for p in (self.root / name).glob("*.json")]
        return sorted({int(p.stem) for p in found if p.stem.isdecimal() and len(p.stem) == 20})

    def record(self, number):
        """The record of a version, or what stands in for it in `_copies`."""
        for folder in ("_commits", "_copies"):
            path = self.root / folder / f"{number:020d}.json"
            record = self.unsealed(path.read_bytes()) if path.exists() else None
            if record is not None:
                assert record["number"] == number
                return record
        raise Refused(f"record {number} is damaged in both places")

    def unsealed(self, content):
        """What a sealed file says; None if it is cut or altered."""
        if content.startswith(b'{"checksum":"') and content[77:88] == b'","record":':
            body = content[88:-1]
            whole = hashlib.sha256(body).hexdigest().encode() == content[13:77] and content[-1:] == b"}"
            return json.loads(body) if whole else None
        try:
            record = json.loads(content)
            checksum = record.pop("checksum")
        except (ValueError, KeyError):
            return None
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        if checksum != hashlib.sha256(canonical.encode()).hexdigest() or record["format"] != 1:
            return None
        index, live = record.pop("index"), record.pop("live")
        record["indexes"] = {live["space_id"]: index}
        record["releases"] = [{**live, "version": 1, "retired": False}]
        record["live_release"] = live["release"]
        return record

    def kept(self, version):
        """Raise unless a version may be read."""
        numbers = self.numbers()
        if not 1 <= version <= numbers[-1]:
            raise Refused("there is no such version")
        newest = self.record(numbers[-1])
        if version < (newest.get("purged_at") or 0):
            raise Refused("purged")
        named = {r["version"] for r in newest["releases"] if not r.get("retired")}
        if version < newest.get("readable_from", 1) and version not in named:
            raise Refused("let go")

    def live(self, version):
        """The live files of a version by path: (kind, space)."""
        first, files = self.checkpoint(version) if self.with_checkpoints else (0, {})
        newest = self.record(self.numbers()[-1])
        for number in range(first + 1, version + 1):
            record = self.record(number)
            assert record["format"] in (1, 2, 3)
            assert record["parent"] == number - 1
            for path in record.get("removed", ()):
                del files[path]
            for kind in KINDS:
                files |= {file["path"]: (kind, "") for file in record[kind]}
            for space, brought in record["vectors"].items():
                files |= {file["path"]: ("vectors", space) for file in brought}
        if version >= newest.get("readable_from", 1):
            return files
        left = {r["space_id"] for r in newest["releases"] if not r.get("retired")}
        return {p: (kind, space) for p, (kind, space) in files.items() if kind != "vectors" or space in left}

    def checkpoint(self, version):
        """The newest whole checkpoint not after a version: its number and live files."""
        folder = self.root / "_checkpoints"
        for path in sorted(folder.glob("*.json"), reverse=True):
            if int(path.stem) > version:
                continue
            said = self.unsealed(path.read_bytes())
            parts = {name: folder / f"{path.stem}.{name}.parquet" for name in ("files", "masks", "history")}
            if said and all(
                part.exists() and hashlib.sha256(part.read_bytes()).hexdigest() == said["parts"][name]
                for name, part in parts.items()
            ):
                rows = pq.read_table(parts["files"]).to_pylist()
                live = {r["path"]: (r["kind"], r["space_id"]) for r in rows if r["kind"] != "index"}
                return said["number"], live
        return 0, {}

    def read(self, version):
        """Rows of a version: by (kind, space) a list of dicts."""
        self.kept(version)
        files = self.live(version)
        masked = {}
        for path, (kind, _) in files.items():
            if kind == "deletes":
                for row in pq.read_table(self.root / path).to_pylist():
                    masked.setdefault(row["path"], set()).add(row["row"])
        rows = {}
        for path, (kind, space) in files.items():
            if kind != "deletes":
                found = pq.read_table(self.root / path).to_pylist()
                alive = [r for at, r in enumerate(found) if at not in masked.get(path, ())]
                rows.setdefault((kind, space), []).extend(alive)
        for (kind, _), found in rows.items():
            keys = [tuple(r[k] for k in KEYS.get(kind, ())) for r in found]
            assert kind not in KEYS or len(set(keys)) == len(keys), "a key occurs once"
        return {key: found for key, found in rows.items() if found}

    def totals(self, version):
        """What the record says that there is."""
        record = self.record(version)
        spaces = {s: sum(origins.values()) for s, origins in record["spaces"].items()}
        said = {("items", ""): record["total_items"], ("rejects", ""): record["total_rejects"]}
        left = {space for _, space in self.live(version).values()}
        said |= {("vectors", space): count for space, count in spaces.items() if space in left}
        return {key: count for key, count in said.items() if count}


def ours(snapshot):
    """The same rows as this project reads them."""
    rows = {}
    for kind, spaces in (("items", [""]), ("rejects", [""]), ("vectors", snapshot.spaces())):
        for space in spaces:
            for file in snapshot.files(kind, space or None):
                table = pq.read_table(snapshot.root / file.path)
                for read, positions, _ in snapshot.read(kind, ["item_id"], space or None):
                    if read.path == file.path:
                        rows.setdefault((kind, space), []).extend(table.take(positions).to_pylist())
    return {key: found for key, found in rows.items() if found}


def in_order(rows):
    return {key: sorted(map(repr, found)) for key, found in rows.items()}


def check(root, version, snapshot=None):
    snapshot = snapshot or Snapshot.open(root, at=version)
    expected = in_order(ours(snapshot))
    for with_checkpoints in (False, True):
        reader = Reader(root, with_checkpoints=with_checkpoints)
        found = reader.read(version)
        assert in_order(found) == expected
        assert {key: len(rows) for key, rows in found.items()} == reader.totals(version)


@pytest.fixture
def every(monkeypatch):
    """A checkpoint every third version."""
    monkeypatch.setattr(checkpoints, "EVERY", 3)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The folder of a lake that is made once, and its story."""
    return {"folder": tmp_path_factory.mktemp("shelf")}


@pytest.fixture
def told(shelf, story, tools, lake, every):
    """Windows with deletes and rejects, two spaces, promotions and compactions, with checkpoints between."""
    if "tale" not in shelf:
        tale = story(shelf["folder"] / "lake", 11)
        tale.grow(4)
        tools.maintain(tale.lake, rebuild=True)
        tale.tell(tale.head.version)
        make_live(tale.lake / "docs", 2, "promote", "run")
        make_live(tale.lake / "docs", 1, "rollback", "run")
        tale.tell(tale.head.version)
        tale.grow(3)
        shelf["tale"] = tale
    shutil.copytree(shelf["folder"] / "lake", lake)
    mine = story(lake, 11)
    for name in ("model", "filled", "told", "random"):
        setattr(mine, name, copy.deepcopy(getattr(shelf["tale"], name)))
    return mine


def test_a_reader_of_the_page_reads_what_we_read(told, lake):
    """Every version, by the log alone and by checkpoints, row for row, column for column."""
    assert list((lake / "docs/_checkpoints").glob("*.json"))
    spaces = set()
    for version in told.told:
        check(lake / "docs", version)
        told.holds(version)
        spaces |= {key for key in Reader(lake / "docs", with_checkpoints=True).read(version)}
    assert spaces == {
        ("items", ""),
        ("rejects", ""),
        ("vectors", told.toy.SPACE),
        ("vectors", told.toy.SECOND_SPACE),
    }


def test_a_reader_of_the_page_refuses_what_we_refuse(told, lake, clock, maintain, purge):
    """Versions that were let go or purged, and those that never were."""
    root = lake / "docs"
    clock.move(days=3)
    told.step()
    done = maintain(days=1, releases=5)
    assert 2 < done.readable_from <= done.version

    def agree(versions):
        refused = set()
        for version in versions:
            reader = Reader(root, with_checkpoints=True)
            try:
                Snapshot.open(root, at=version)
            except VersionGone:
                refused.add(version)
                with pytest.raises(Refused):
                    reader.read(version)
            else:
                check(root, version)
        return refused

    refused = agree(range(done.version + 2))
    assert {0, 2, done.version + 1} <= refused
    assert len(refused) < done.version
    last = purge().version
    assert agree(range(last + 2)) == {*range(last), last + 1}


@pytest.mark.parametrize("how", ["lost", "cut", "altered"])
def test_a_reader_of_the_page_uses_the_second_copy(told, lake, how):
    """A record that is missing, cut or altered is read from `_copies`."""
    root = lake / "docs"
    version = told.head.version
    expected = in_order(Reader(root, with_checkpoints=False).read(version))
    for number in (1, version // 2, version):
        path = Log(root).path(number)
        content = path.read_bytes()
        if how == "lost":
            path.unlink()
        else:
            path.write_bytes(content[:-20] if how == "cut" else content.replace(b'"ingest"', b'"nigest"'))
    reader = Reader(root, with_checkpoints=False)
    assert in_order(reader.read(version)) == expected
    assert in_order(ours(Snapshot.open(root))) == expected
    Log(root).copy(1).unlink()
    with pytest.raises(Refused, match="damaged in both places"):
        reader.read(version)


def test_a_checkpoint_that_is_not_whole_does_not_count(told, lake):
    """With a part altered the reader begins earlier, and comes to the same rows."""
    root = lake / "docs"
    version = told.head.version
    for path in (root / "_checkpoints").glob("*.files.parquet"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert Reader(root, with_checkpoints=True).checkpoint(version) == (0, {})
    check(root, version)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("collection", ["docs", "goods"])
def test_a_reader_of_the_page_reads_earlier_formats(tmp_path, number, collection):
    """The lakes that earlier programs wrote, every version of them."""
    with tarfile.open(GOLDEN / f"lake_format_{number}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "lake" / collection
    reader = Reader(root, with_checkpoints=True)
    assert {reader.record(number)["format"] for number in reader.numbers()} == {number}
    for version in reader.numbers():
        check(root, version)
        assert reader.record(version)["indexes"].keys() == Snapshot.open(root, at=version).head.indexes.keys()


def test_every_key_of_a_record_is_on_the_page(told, lake):
    """What stands in records is named in FORMAT.md, and so are the columns of every kind of file."""
    page = (Path(__file__).parents[3] / "storage" / "FORMAT.md").read_text()
    reader = Reader(lake / "docs", with_checkpoints=False)
    keys = set()
    for number in reader.numbers():
        record = reader.record(number)
        keys |= set(record)
        keys |= {key for index in record["indexes"].values() for key in index}
        keys |= {key for kind in KINDS for file in record[kind] for key in file}
        for path in reader.live(number):
            keys |= set(pq.read_schema(lake / "docs" / path).names)
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_every_key_of_a_release_and_of_a_checkpoint_is_on_the_page(told, lake):
    """So that nobody has to guess what a release says, or how a checkpoint lists its files."""
    page = (Path(__file__).parents[3] / "storage" / "FORMAT.md").read_text()
    reader = Reader(lake / "docs", with_checkpoints=False)
    record = reader.record(reader.numbers()[-1])
    keys = {key for release in record["releases"] for key in release}
    keys |= set(BasisFile.model_fields) | set(Calibrator.model_fields)
    for path in (lake / "docs/_checkpoints").glob("*.parquet"):
        if ".history." not in path.name:
            keys |= set(pq.read_schema(path).names)
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_the_page_counts_the_bytes_of_a_seal_right(told, lake):
    """The number of bytes before a record that FORMAT.md names is the number there are."""
    page = (Path(__file__).parents[3] / "storage" / "FORMAT.md").read_text()
    content = Log(lake / "docs").path(1).read_bytes()
    before = content.index(b'"record":') + len(b'"record":')
    assert hashlib.sha256(content[before:-1]).hexdigest().encode() in content[:before]
    assert f"all but the first {before} bytes and the last one" in " ".join(page.split())


def test_the_reader_imports_nothing_of_ours(tmp_path, told, lake):
    """It is as independent as it says: its source runs where this project is not."""
    import subprocess
    import sys

    source = Path(__file__).read_text()
    alone = source[: source.index("def ours(")].replace(
        source[source.index("from storage import") : source.index("GOLDEN")], ""
    )
    assert "storage" not in alone.replace("lake_format", "").split("class Refused")[1]
    script = tmp_path / "reader.py"
    script.write_text(
        alone + "\nimport sys\nreader = Reader(sys.argv[1], with_checkpoints=True)\n"
        "assert 'storage' not in sys.modules\n"
        "print(len(reader.read(reader.numbers()[-1])['items', '']))\n"
    )
    shutil.copytree(lake, tmp_path / "copy")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "copy/docs")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == len(told.model.items)
