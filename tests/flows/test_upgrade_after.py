"""A collection that was upgraded: backfill, cascades, maintenance, purge, export, import."""

import json
import shutil

import pytest

from tests.flows.topics import ASK, PLAIN, WAYS, Desk

CARRIED = ("bridge", "bridge and cascade", "map", "map and cascade")
COVERED = pytest.approx(160 / 240)


@pytest.mark.parametrize("way", CARRIED)
def test_a_backfill_makes_of_every_way_what_encoding_everything_gives(way, after, tmp_path):
    """In rounds within budgets, each counted; at the end the answers are those of a full recompute."""
    desk = after(way)[0].copied(tmp_path, kept=False)
    would = desk.evervec("backfill", "docs", "--budget", "30rows", "--dry-run")
    assert (would["reencoded"], would["remaining"], would["coverage_before"]) == (30, 80, COVERED)
    first = desk.evervec("backfill", "docs", "--budget", "30rows", "--order", "residual")
    assert (first["reencoded"], first["remaining"], first["rejected"]) == (30, 50, 0)
    assert (first["coverage_before"], first["coverage_after"]) == (COVERED, pytest.approx(190 / 240))
    desk.whole()
    second = desk.evervec("backfill", "docs", "--order", "sql:n")
    assert (second["reencoded"], second["remaining"], second["coverage_after"]) == (50, 0, 1.0)
    assert desk.origins()["new_96_ab23a726"] == {"encoded": 240}
    assert desk.sql("SELECT count(residual) AS n FROM docs_vectors") == [{"n": 0}]
    version = desk.head()[1]
    assert desk.evervec("backfill", "docs")["reencoded"] == 0
    assert desk.head()[1] == version
    if way == "bridge":  # the release that it asks in has all rows now
        desk.evervec("promote", "docs", 2)
    anew = after("reencode")[0]
    for query in ("anything", "something else"):
        assert list(dict(desk.hits(query))) == list(dict(anew.hits(query)))
    desk.whole()


def test_what_is_worth_most_is_encoded_first(after, tmp_path):
    """Of an SQL order the highest values; of `asked` what searches had for candidates, till all is done."""
    desk = after("map and cascade")[0].copied(tmp_path, kept=False)
    settings = "searches: {note_candidates: true, keep_vectors: false}"
    desk.configure("max_deleted: 1.0", f"max_deleted: 1.0\n    {settings}")

    def mapped():
        return {r["item_id"] for r in desk.sql("SELECT item_id FROM docs_vectors WHERE origin = 'mapped'")}

    at_first = sorted(mapped())
    desk.evervec("backfill", "docs", "--budget", "10rows", "--order", "sql:-n")
    assert sorted(mapped()) == at_first[10:]
    desk.hits("anything")
    [noted] = (desk.folder / "lake/docs/_asked").glob("*.json")
    asked = set(json.loads(noted.read_text()))
    before, done = mapped(), desk.evervec("backfill", "docs", "--budget", "10rows")
    encoded = before - mapped()
    assert (done["reencoded"], done["folded"], len(encoded)) == (10, 0, 10)
    assert encoded <= asked
    assert noted.exists()
    desk.evervec("backfill", "docs")
    assert not noted.exists()


@pytest.mark.parametrize("way", ["bridge and cascade", "map and cascade"])
def test_a_cascade_keeps_what_it_encodes_and_a_backfill_folds_it_in_for_nothing(way, after, tmp_path):
    """The second search encodes nothing; folded rows are native, and what is kept is gone then."""
    desk = after(way)[0].copied(tmp_path, kept=False)
    first = desk.hits("anything")
    kept = sorted((desk.folder / "lake/docs/_kept").rglob("*.parquet"))
    assert kept
    assert desk.hits("anything") == first
    assert sorted((desk.folder / "lake/docs/_kept").rglob("*.parquet")) == kept
    version = desk.head()[1]
    done = desk.evervec("backfill", "docs", "--budget", "1rows")
    assert done["folded"] > 1
    assert (done["reencoded"], done["remaining"]) == (1, 80 - done["folded"] - 1)
    assert desk.head()[1] == version + 2
    assert not list((desk.folder / "lake/docs/_kept").rglob("*.parquet"))
    assert desk.hits("anything", 3) == first[:3]
    desk.whole()


def test_the_widest_cascade_ranks_as_if_everything_were_encoded(before, after, tmp_path):
    """A cascade over all rows finds what a full recompute finds, hit by hit."""
    desk = before.copied(tmp_path)
    done = desk.evervec("upgrade", "docs", *ASK, "--cascade", 240, "--force-strategy", "map", "--yes")
    assert done["cascade"] == 240
    assert desk.hits("anything", 20) == after("reencode")[0].hits("anything", 20)


@pytest.mark.parametrize("way", WAYS)
def test_maintenance_retires_what_is_not_kept_and_no_more(way, after, tmp_path):
    """With nothing retained the old release goes, with its space; what a bridge needs stays."""
    desk, done = after(way)
    desk = desk.copied(tmp_path)
    desk.configure("max_deleted: 1.0", "max_deleted: 1.0\n    retain: {releases: 0, days: 0}")
    answers = desk.hits("anything")
    report = desk.evervec("maintain", "docs")
    assert "release 1 was retired" in report["done"]
    spaces = {s["space_id"] for s in desk.evervec("status", "docs")["spaces"]}
    old = {"old_24_0c259b71"} if way.startswith(("bridge", "reuse")) else set()
    new = {"new_96_ab23a726"} if way != "reuse" else set()
    assert spaces == old | new
    assert desk.hits("anything") == answers
    assert "no earlier release" in desk.refused("rollback", "docs", code=2)
    assert "was retired: its vectors are gone" in desk.refused("promote", "docs", 1, code=2)
    rows = desk.rows()
    rows["e0000"] = {"text": "something added " + rows["d0008"]["text"], "topic": "t0", "n": 900}
    desk.write(rows)
    assert desk.evervec("ingest", "docs")["added"] == 1
    assert "e0000" in dict(desk.hits(rows["e0000"]["text"]))
    assert desk.head()[0] == done["release"]
    desk.whole()
    again = desk.evervec("maintain", "docs")
    assert not [sentence for sentence in again["done"] if "retired" in sentence]
    desk.whole()


@pytest.mark.parametrize("way", CARRIED)
def test_a_purge_leaves_an_upgraded_collection_as_it_is(way, after, tmp_path):
    """Deleted texts are gone from every file, spools and reports too; answers and the way back stay."""
    desk, done = after(way)
    desk = desk.copied(tmp_path)
    rows = desk.rows()
    gone = rows.pop("d0009")["text"]
    desk.write(rows)
    desk.evervec("ingest", "docs")
    desk.hits(gone)
    answers = desk.hits("anything")
    desk.evervec("maintain", "docs", "--purge", "--yes")
    assert not list((desk.folder / "lake/docs/_kept").rglob("*.parquet"))
    assert desk.hits("anything") == answers
    assert desk.sql("SELECT count(*) AS n FROM docs_vectors WHERE item_id = 'd0009'") == [{"n": 0}]
    desk.whole()
    assert desk.evervec("rollback", "docs")["previous"] == done["release"]
    assert desk.evervec("promote", "docs", done["release"])["previous"] == 1
    assert desk.hits("anything") == answers
    again = desk.evervec("upgrade", "docs", *WAYS[way])
    assert again["note"].startswith(f"release {done['release']} is live already")
    desk.whole()


def test_a_purge_while_a_release_is_built_loses_nothing_of_it(before, after, tmp_path):
    """What was built and not promoted is still there, and the same command makes it live."""
    desk = before.copied(tmp_path)
    built = desk.evervec("upgrade", "docs", *WAYS["map"], "--no-promote")
    desk.evervec("maintain", "docs", "--purge", "--yes")
    done = desk.evervec("upgrade", "docs", *WAYS["map"])
    assert (done["release"], done["promoted"], done["mapped"]) == (built["release"], True, 80)
    assert desk.hits("anything") == after("map")[0].hits("anything")
    desk.whole()


@pytest.mark.parametrize("way", ["map", "reencode", "bridge"])
def test_an_upgraded_collection_can_be_taken_elsewhere(way, after, tmp_path):
    """Exported and imported, its vectors are what they were, and the next ingest encodes none again."""
    desk, _ = after(way)
    away = Desk.made(tmp_path / "away")
    shutil.copy(desk.folder / "rows.jsonl", away.folder)
    if way != "bridge":
        away.configure("encoder: old", "encoder: new")
    rows = desk.evervec("export", "docs", "--to", "parquet", tmp_path / "parcel")["rows"]
    imported = away.evervec("import", "docs", tmp_path / "parcel")
    assert (imported["rows"], imported["imported"], imported["rejected"]) == (rows, 240, 0)
    vectors = "SELECT item_id, vector FROM docs ORDER BY item_id"
    assert away.sql(vectors) == desk.sql(vectors)
    if way == "reencode":
        assert away.hits("anything") == desk.hits("anything")
    assert away.evervec("ingest", "docs")["encoded"] == 0
    away.whole()


def test_a_later_probe_of_the_same_way_is_taken_from_what_stands(before, tmp_path):
    """Fresh as long as encoders, queries and label are the same and few rows changed; measured anew then."""
    desk = before.copied(tmp_path)
    first = desk.evervec("upgrade", "docs", *PLAIN, "--dry-run")["report"]
    rows = desk.rows()
    for item_id in list(rows)[:12]:
        rows[item_id] |= {"n": -1}
    desk.write(rows)
    assert desk.evervec("ingest", "docs")["updated"] == 12
    assert desk.evervec("upgrade", "docs", *PLAIN, "--dry-run")["report"] == first
    del rows["d0100"]
    desk.write(rows)
    assert desk.evervec("ingest", "docs")["deleted"] == 1
    assert desk.evervec("upgrade", "docs", *PLAIN, "--dry-run")["report"] != first
