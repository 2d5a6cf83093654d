"""A change of the encoder by the command line: what readers get, what later ingests do, and the way back."""

from pathlib import Path

import pytest

from tests.flows.topics import WAYS

PROMISED = {"release", "strategy", "basis_id", "promoted", "verdict", "report"}


def edited(desk):
    """Add, change and delete items; those that are new or changed now, and the one that is gone."""
    rows = desk.rows()
    words = rows["d0007"]["text"].split()
    rows["d0007"] |= {"text": " ".join(reversed(words[:9])) + " changed"}
    rows["e0000"] = {"text": "something added " + rows["d0008"]["text"], "topic": "t0", "n": 900}
    gone = rows.pop("d0009")
    desk.write(rows)
    return {i: rows[i]["text"] for i in ("d0007", "e0000")}, gone["text"]


@pytest.mark.parametrize("way", WAYS)
def test_an_upgrade_tells_the_truth(way, before, after):
    """Report, status, SQL, search and history agree; readers are served better, and doctor is content."""
    desk, done = after(way)
    assert done.keys() >= PROMISED
    strategy = way.partition(" ")[0]
    assert (done["strategy"], done["promoted"], done["forced"]) == (strategy, True, False)
    assert (done["cascade"] > 0) == way.endswith("cascade")
    assert Path(done["report"]).is_file()
    status = desk.evervec("status", "docs")
    live = status["live"]
    assert live.items() >= {k: done[k] for k in ("release", "space_id", "strategy", "version")}.items()
    assert live["coverage"] == (1.0 if strategy in ("reuse", "reencode") else round(160 / 240, 6))
    assert status["items"] == 240
    held = desk.origins()[done["space_id"]]
    assert held == {k: done[k] for k in ("encoded", "mapped") if done[k]}
    assert sum(held.values()) == done["rows"] == 240
    assert ("mapped" in held) == (strategy == "map")
    bases = desk.sql("SELECT basis_id, direction FROM evervec.bases")
    directions = {"bridge": "queries", "map": "rows"}
    own = {"basis_id": done["basis_id"], "direction": directions.get(strategy)}
    assert bases == ([own] if done["basis_id"] else [])
    assert (done["basis_id"] is None) == (strategy in ("reuse", "reencode"))
    [row] = desk.sql("SELECT release, strategy, space_id FROM evervec.releases WHERE live")
    assert row == {k: done[k] for k in ("release", "strategy", "space_id")}
    found = desk.evervec("search", "docs", "anything", "-k", 3)
    assert {k: found[k] for k in row} == row
    last = desk.evervec("history", "docs")["versions"][0]
    assert (last["version"], last["verb"], last["release"]) == (done["version"], "promote", done["release"])
    if strategy == "reuse":
        assert desk.hits("anything") == before.hits("anything")
    else:
        assert desk.on_topic() > before.on_topic() + 0.1
    desk.whole()


@pytest.mark.parametrize("way", WAYS)
def test_the_same_command_again_does_nothing_and_says_so(way, after):
    """No version, no new release, exit code 0."""
    desk, done = after(way)
    again = desk.evervec("upgrade", "docs", *WAYS[way])
    assert {k: again[k] for k in PROMISED} == {k: done[k] for k in PROMISED} | {"verdict": again["verdict"]}
    assert again["version"] == done["version"]
    assert f"release {done['release']} is live already" in desk.said("upgrade", "docs", *WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_back_and_forth(way, before, after, tmp_path):
    """A rollback gives what was before, hit by hit; promoting again what the upgrade gave."""
    desk, done = after(way)
    desk, upgraded = desk.copied(tmp_path), desk.hits("anything")
    for dry in (["--dry-run"], []):
        moved = desk.evervec("rollback", "docs", *dry)
        assert (moved["live"], moved["previous"]) == (1, done["release"])
    assert desk.head()[0] == 1
    assert desk.hits("anything") == before.hits("anything")
    assert desk.hits("anything", release=done["release"]) == upgraded
    assert desk.evervec("promote", "docs", done["release"])["previous"] == 1
    assert desk.hits("anything") == upgraded
    desk.whole()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rolled_back", [False, True])
def test_an_ingest_afterwards_fills_every_release_that_is_kept(way, rolled_back, after, tmp_path):
    """Added and changed items are native everywhere, also in the space that a bridge asks in."""
    desk, done = after(way)
    desk = desk.copied(tmp_path)
    if rolled_back:
        desk.evervec("rollback", "docs")
    new, gone = edited(desk)
    report = desk.evervec("ingest", "docs")
    assert (report["added"], report["updated"], report["deleted"]) == (1, 1, 1)
    for release in (1, done["release"]):
        for item_id, text in new.items():
            assert item_id in dict(desk.hits(text, 10, release))
        assert "d0009" not in [item_id for item_id, _ in desk.hits(gone, 240, release)]
    rows = desk.sql("SELECT space_id, item_id, origin FROM docs_vectors WHERE item_id IN ('d0007', 'e0000')")
    spaces = {s["space_id"] for s in desk.evervec("status", "docs")["spaces"]}
    assert len(spaces) == (1 if way == "reuse" else 2)
    assert {(r["space_id"], r["item_id"]) for r in rows} == {(s, i) for s in spaces for i in new}
    assert {r["origin"] for r in rows} == {"encoded"}
    desk.whole()
    assert desk.evervec("ingest", "docs")["encoded"] == 0
    other = ("promote", "docs", done["release"]) if rolled_back else ("rollback", "docs")
    assert desk.evervec(*other)["previous"] == (1 if rolled_back else done["release"])


def test_a_dry_run_and_a_probe_change_nothing_that_readers_or_writers_see(before, tmp_path):
    """No version, no space, no release; the report is all that is added."""
    desk = before.copied(tmp_path)
    seen = desk.evervec("status", "docs") | {"bytes": 0}
    for way in WAYS.values():
        would = desk.evervec("upgrade", "docs", *way, "--dry-run")
        assert (would["dry_run"], would["promoted"], would["version"]) == (True, False, 1)
    assert desk.evervec("status", "docs") | {"bytes": 0} == seen
    assert "would be carried over by map" in desk.said("upgrade", "docs", *WAYS["map"], "--dry-run")


@pytest.mark.parametrize("way", WAYS)
def test_a_dry_run_names_what_the_run_then_makes(way, before, after):
    """Release, strategy, space, cascade and counts are those of the run itself."""
    would = before.evervec("upgrade", "docs", *WAYS[way], "--dry-run")
    keys = ("release", "strategy", "space_id", "cascade", "verdict", "report", "rows")
    done = after(way)[1]
    assert {k: would[k] for k in keys} == {k: done[k] for k in keys} | {"report": would["report"]}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_built_without_promoting_can_be_tried_and_promoted(way, before, after, tmp_path):
    """Readers keep what they have, `--release` shows the other; the same command without the flag ends it."""
    desk = before.copied(tmp_path)
    built = desk.evervec("upgrade", "docs", *WAYS[way], "--no-promote")
    assert (built["promoted"], built["release"]) == (False, after(way)[1]["release"])
    assert desk.head()[0] == 1
    assert desk.hits("anything") == before.hits("anything")
    assert desk.hits("anything", release=built["release"]) == after(way)[0].hits("anything")
    desk.whole()
    new, _ = edited(desk)
    assert desk.evervec("ingest", "docs")["updated"] == 1
    desk.whole()
    done = desk.evervec("upgrade", "docs", *WAYS[way])
    assert (done["promoted"], done["release"]) == (True, built["release"])
    for item_id, text in new.items():  # a bridge, alone, ranks what is native first
        assert item_id in dict(desk.hits(text, 240 if way == "bridge" else 10))
    desk.whole()
