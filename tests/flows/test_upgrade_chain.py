"""From encoder to encoder to encoder, new spans, and vectors that were brought without their encoder."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.encoders import drifting
from tests.flows.topics import PLAIN, WAYS, Desk

NEWER = ("--to", "newer", *PLAIN[2:])


@pytest.mark.parametrize("first", ["map", "bridge and cascade", "reencode"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "retired"])
def test_three_encoders_one_after_the_other(first, kept, after, tmp_path):
    """A map of a map is never made: rows come from the first space, or are native, or are encoded."""
    desk, second = after(first)
    desk = desk.copied(tmp_path)
    if not kept:
        desk.configure("max_deleted: 1.0", "max_deleted: 1.0\n    retain: {releases: 0, days: 0}")
        desk.evervec("maintain", "docs")
    from_old = first.startswith("bridge") or (kept and first == "map")
    source = "old_24_0c259b71" if from_old else "new_96_ab23a726"
    probed = desk.evervec("probe", "docs", *NEWER)
    assert probed["to"].startswith("newer_160_")
    done = desk.evervec("upgrade", "docs", *NEWER, "--force-strategy", "map", "--yes")
    assert (done["strategy"], done["rows"], done["promoted"]) == ("map", 240, True)
    [basis] = desk.sql(f"SELECT source, target FROM evervec.bases WHERE basis_id = '{done['basis_id']}'")
    assert basis == {"source": source, "target": done["space_id"]}
    held = desk.origins()[done["space_id"]]
    assert held.get("mapped", 0) == done["mapped"] == (0 if first == "map" and not kept else 80)
    assert desk.on_topic() > 0.9
    desk.whole()
    back = desk.evervec("rollback", "docs")
    assert back["live"] == second["release"]
    desk.evervec("promote", "docs", done["release"])
    rows = desk.rows()
    rows["d0007"] |= {"text": "entirely other words " + rows["d0008"]["text"]}
    desk.write(rows)
    desk.evervec("ingest", "docs")
    spaces = {s["space_id"] for s in desk.evervec("status", "docs")["spaces"]}
    found = desk.sql("SELECT space_id, origin FROM docs_vectors WHERE item_id = 'd0007'")
    assert {r["space_id"]: r["origin"] for r in found} == dict.fromkeys(spaces, "encoded")
    desk.whole()


@pytest.mark.parametrize("to", ["old", "new"])
def test_new_spans_by_a_new_encoder_or_the_same(to, tmp_path):
    """`--rechunk` cuts as evervec.yaml says now, in a space of its own; the way back has the old spans."""
    desk = Desk.made(tmp_path, retain="chunk: {max_tokens: 8, overlap: 0}")
    desk.evervec("ingest", "docs")
    before = desk.hits("anything")
    desk.configure("max_tokens: 8", "max_tokens: 10")
    assert "upgrade docs --to ENCODER --strategy reencode --rechunk" in desk.refused("ingest", "docs", code=2)
    command = ("upgrade", "docs", "--to", to, *PLAIN[2:], "--rechunk")
    if to == "old":
        assert "--rechunk --yes" in desk.refused(*command, code=3)
    would = desk.evervec(*command, "--yes", "--dry-run")
    done = desk.evervec(*command, "--yes")
    for report in (would, done):
        assert (report["strategy"], report["release"], report["forced"]) == ("reencode", 2, False)
    assert done["space_id"] == would["space_id"] != "old_24_0c259b71"
    lengths = """
        SELECT space_id, max(len(string_split(text[chunk_start + 1:chunk_end], ' '))) AS words
        FROM docs_vectors JOIN docs_items USING (item_id) GROUP BY space_id ORDER BY words
    """
    assert [r["words"] for r in desk.sql(lengths)] == [8, 10]
    assert desk.evervec(*command, "--yes")["note"].startswith("release 2 is live already")
    rows = desk.rows()
    rows["d0007"] |= {"text": "entirely other words " + rows["d0008"]["text"]}
    desk.write(rows)
    assert desk.evervec("ingest", "docs")["updated"] == 1
    desk.whole()
    desk.evervec("rollback", "docs")
    assert desk.hits("anything")[:3] == before[:3]
    desk.whole()


@pytest.fixture
def brought(tmp_path):
    """A collection of imported vectors with their texts; who made the vectors is not declared."""
    desk = Desk.made(tmp_path / "brought")
    rows = desk.rows()
    vectors = drifting.Old().encode([row["text"] for row in rows.values()])
    table = pa.table(
        {
            "id": list(rows),
            "words": [row["text"] for row in rows.values()],
            "topic": [row["topic"] for row in rows.values()],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
    )
    pq.write_table(table, desk.folder / "vectors.parquet")
    (desk.folder / "rows.jsonl").unlink()
    path = desk.folder / "evervec.yaml"
    head = path.read_text().partition("collections:")[0]
    path.write_text(f"{head}collections:\n  docs: {{modality: text}}\n")
    columns = ("--id", "id", "--text", "words", "--vector", "vec", "--attributes", "topic")
    given = desk.evervec("import", "docs", desk.folder / "vectors.parquet", *columns, "--space", "theirs")
    assert given["imported"] == 240
    return desk


def test_brought_vectors_are_carried_over_and_can_be_searched_then(brought):
    """Without their encoder a map or a recompute is offered, no bridge; text search works afterwards."""
    assert "evervec probe docs --to" in brought.refused("search", "docs", "anything", code=2)
    for measure in (PLAIN, ("--to", "new", *PLAIN[4:])):
        probed = brought.evervec("probe", "docs", *measure)
        assert {o["strategy"] for o in probed["options"]} == {"map", "reencode"}
    assert probed["tier"] == "neighbours"
    assert 0 < probed["status_quo"] < 1, "stored vectors of held-out items serve as queries"
    assert "bridge was not measured" in brought.refused("upgrade", "docs", *WAYS["bridge"], code=4)
    done = brought.evervec("upgrade", "docs", *WAYS["map"])
    assert (done["rows"], done["mapped"], done["encoded"]) == (240, 80, 160)
    held = {s["space_id"]: s for s in brought.evervec("status", "docs")["spaces"]}
    assert held.pop(done["space_id"])["mapped"] == 80
    assert [space["imported"] for space in held.values()] == [240]
    assert len(brought.evervec("search", "docs", "anything")["hits"]) == 10
    assert brought.evervec("backfill", "docs")["remaining"] == 0
    brought.whole()
    assert "the encoder of theirs" in brought.refused("rollback", "docs", code=3)
    brought.evervec("rollback", "docs", "--yes")
    assert "not at hand" in brought.refused("search", "docs", "anything", code=2)
    brought.evervec("promote", "docs", done["release"])
    brought.whole()


def test_brought_vectors_can_be_replaced_by_a_full_recompute(brought):
    """Every stored text is encoded; nothing of the old space is needed for it."""
    done = brought.evervec("upgrade", "docs", *WAYS["reencode"])
    assert (done["encoded"], done["promoted"]) == (240, True)
    assert len(brought.evervec("search", "docs", "anything")["hits"]) == 10
    brought.whole()
