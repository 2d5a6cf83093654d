"""What a review found: releases that move during maintenance, types after compaction, commits that stand."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from flows.maintain import MaintainRequest
from flows.maintain import maintain as run_maintain
from storage import checkpoints, maintenance, places, releases, retention, transaction
from storage.commits import Log
from storage.drafting import drafting
from storage.errors import CommitConflict, StorageError
from storage.locks import lock
from storage.releases import make_live
from storage.retention import Retention
from storage.snapshot import Snapshot
from tasks import reader


def test_a_release_made_live_during_maintenance_is_not_retired(tale, lake):
    """What was planned before is asked again at the commit: readers never get a release without vectors."""
    tale.grow(2)
    tale.fill(1.0)
    make_live(lake / "docs", 2, "promote", "run")
    keep = Retention(14, 0)
    with lock(lake / "docs", "maintain") as lease:
        snapshot = Snapshot.open(lake / "docs")
        work = maintenance.plan(lake, snapshot, keep, rebuild=False)
        assert [r.release for r in work.retire] == [1]
        make_live(lake / "docs", 1, "rollback", "run")
        done = maintenance.carry_out(lake, snapshot, work, keep, "run", lease)
    head = Snapshot.open(lake / "docs").head
    assert (head.live_release, head.live.retired) == (1, False)
    assert done.retired == []
    assert head.live.space_id in head.spaces


def test_no_record_makes_a_retired_release_live(tale, lake):
    """Whatever a caller asks for, the record is refused before it is written."""
    tale.grow(1)
    with drafting(lake / "docs") as draft:
        head = draft.before.head
        retired = tuple(r.model_copy(update={"retired": True}) for r in head.releases)
        record = transaction.succeeding(head, verb="promote", run_id="run", started_at=head.started_at)
        with pytest.raises(CommitConflict, match="was made live meanwhile"):
            draft.publish(record.model_copy(update={"releases": retired}))
    assert Snapshot.open(lake / "docs").version == head.number


def test_attributes_keep_their_types_after_old_files_were_joined(make_project, run_ingest, tmp_path):
    """Compaction puts rows of old columns into a new file; a column that they lack stays what it was."""
    project = make_project("""
        lake: ./lake
        encoders: {enc: {model: "fake:16"}}
        collections:
          goods:
            source: {kind: table, path: goods.jsonl, id: id, text: text, attributes: [kind]}
            encoder: enc
    """)
    yaml = (project.root / "evervec.yaml").read_text()
    rows = [{"id": f"g{n}", "text": f"thing {n}", "kind": "x", "price": n} for n in range(6)]
    path = project.root / "goods.jsonl"
    for count in (2, 4):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows[:count]))
        run_ingest(project, "goods")
    (project.root / "evervec.yaml").write_text(yaml.replace("[kind]", "[kind, price]"))
    from flows.settings import load_project

    wider = load_project(project.root)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows[4:]))
    run_ingest(wider, "goods", limit=2)
    run_maintain(wider, MaintainRequest("goods", rebuild_index=True))
    assert Snapshot.open(wider.lake / "goods").attributes().field("price").type == pa.int64()
    with reader.open(wider) as lake:
        hits = lake.search("goods", "thing", 9, where="price > 4").hits
        assert [h.item_id for h in hits] == ["g5"]


def test_a_commit_stands_though_its_insurance_could_not_be_written(toy, lake, commit, monkeypatch, caplog):
    """An object store that refuses the second copy, or a checkpoint, does not undo what is durable."""
    monkeypatch.setattr(checkpoints, "EVERY", 1)
    commit(toy.window({"a": toy.Item("one")}))

    def refused(place, data):
        raise StorageError(f"{place}: SlowDown")

    monkeypatch.setattr(places, "replace", refused)
    record = commit(toy.window({"b": toy.Item("two")}))
    monkeypatch.undo()
    assert Log(lake / "docs").read(record.number, strict=True) == record
    assert "no second copy" in caplog.text
    assert "no checkpoint" in caplog.text


def test_a_head_dated_ahead_of_the_clock_lets_nothing_go(tale, lake, clock):
    """Where the newest version is from next year, ages mean nothing: nothing expires until that is over."""
    tale.grow(3)
    clock.move(days=365)
    tale.step()
    clock.move(days=-365)
    snapshot = Snapshot.open(lake / "docs")
    assert snapshot.head.committed_at > datetime.now(UTC) + timedelta(days=300)
    assert retention.readable_from(snapshot, Retention(14, 1)) == 1
    assert retention.releases_to_retire(snapshot, Retention(0, 0)) == []


def test_rollback_and_retention_mean_the_same_release(tale, lake):
    """The release before is the one that was live last, by which way ever it was made so."""
    tale.grow(2)
    tale.fill(1.0)
    root = lake / "docs"
    make_live(root, 2, "promote", "run")
    assert releases.previous(Snapshot.open(root)).release == 1
    make_live(root, 1, "rollback", "run")
    assert releases.previous(Snapshot.open(root)).release == 2
    retired = retention.releases_to_retire(Snapshot.open(root), Retention(14, 1))
    assert retired == []


def test_a_refreshed_item_that_is_gone_meanwhile_is_a_conflict(toy, commit, head):
    """New attributes are not given to an item that somebody let go while they were read."""
    commit(toy.window({"a": toy.Item("one"), "b": toy.Item("two")}))
    commit(toy.window(deleted=["a"]))
    with pytest.raises(CommitConflict, match="'a'"):
        commit(toy.window(refreshed={"a": toy.Item("one", 7)}))
    assert toy.read_items(head()) == {"b": toy.Item("two")}
