"""The diff and what lands: edited, deleted, re-added, renamed, duplicated, rejected, refreshed."""

import json
from pathlib import Path

import pytest

from storage.snapshot import Snapshot
from storage.vectors import Index
from tasks import commit, reader
from tasks.errors import BadRows, EncoderChanged, Refused, RunFailed, SourceUnusable


def counts(report):
    return (report.added, report.updated, report.deleted, report.unchanged, report.rejected, report.encoded)


def texts(project, collection="docs"):
    with reader.open(project) as lake:
        rows = lake.sql(f"SELECT item_id, text FROM {collection}_items").to_pylist()
    return {row["item_id"]: row["text"] for row in rows}


def index_rows(project, collection="docs"):
    """What the LanceDB table holds at the version that the head names."""
    head = Snapshot.open(project.lake / collection).head
    table = Index(project.lake, head.index.table).open_at(head.index).table.to_arrow()
    return sorted((r["item_id"], r["chunk_no"], r["text"]) for r in table.to_pylist())


def write(project, **files):
    for name, text in files.items():
        (project.root / "docs" / f"{name}.txt").write_text(text)


def test_a_first_ingest_adds_everything_and_a_second_one_encodes_nothing(make_project, run_ingest):
    """Unchanged items are never encoded again, and a run without changes makes no version."""
    project = make_project()
    write(project, a="one", b="two", c="three")
    first, second = run_ingest(project), run_ingest(project)
    assert counts(first) == (3, 0, 0, 0, 0, 3)
    assert counts(second) == (0, 0, 0, 3, 0, 0)
    assert first.version == second.version == 1


def test_edited_added_and_deleted_files_are_the_only_ones_touched(make_project, run_ingest):
    """A delta encodes what changed, and every view says what the folder says."""
    project = make_project()
    write(project, a="one", b="two", c="three")
    run_ingest(project)
    write(project, a="one, edited", d="four")
    (project.root / "docs/b.txt").unlink()
    report = run_ingest(project)
    assert counts(report) == (1, 1, 1, 1, 0, 2)
    assert texts(project) == {"a.txt": "one, edited", "c.txt": "three", "d.txt": "four"}
    assert [r[2] for r in index_rows(project)] == ["one, edited", "three", "four"]


def test_a_deleted_item_can_come_back(make_project, run_ingest):
    """Re-adding an id that was deleted lands as a new item, once."""
    project = make_project()
    write(project, a="one", b="two")
    run_ingest(project)
    (project.root / "docs/b.txt").unlink()
    run_ingest(project)
    write(project, b="two")
    assert counts(run_ingest(project)) == (1, 0, 0, 1, 0, 1)
    assert texts(project) == {"a.txt": "one", "b.txt": "two"}
    assert len(index_rows(project)) == 2


def test_a_renamed_item_reuses_its_vector(make_project, run_ingest):
    """The same text under another id is another item, but no second encoder pass."""
    project = make_project()
    write(project, a="one", b="two")
    run_ingest(project)
    (project.root / "docs/b.txt").rename(project.root / "docs/z.txt")
    report = run_ingest(project)
    assert counts(report) == (1, 0, 1, 1, 0, 0)
    with reader.open(project) as lake:
        hit = lake.search("docs", "two", 1).hits[0]
    assert (hit.item_id, hit.text) == ("z.txt", "two")
    assert hit.score == pytest.approx(1.0, abs=1e-5)


def test_duplicated_content_is_kept_under_every_id(make_project, run_ingest):
    """Items with equal text are all there, encoded once; deleting one leaves the others."""
    project = make_project()
    write(project, a="same", b="same", c="same")
    assert counts(run_ingest(project)) == (3, 0, 0, 0, 0, 1)
    (project.root / "docs/a.txt").unlink()
    run_ingest(project)
    assert texts(project) == {"b.txt": "same", "c.txt": "same"}
    assert len(index_rows(project)) == 2


def test_texts_that_change_places_keep_their_vectors(make_project, run_ingest, monkeypatch):
    """A vector can be reused even if its old owner was overwritten by an earlier window of the run."""
    project = make_project()
    write(project, a="one", b="two", c="three")
    run_ingest(project)
    write(project, a="two", b="three", c="one")
    monkeypatch.setattr(commit, "WINDOW_CHUNKS", 1)
    report = run_ingest(project)
    assert counts(report) == (0, 3, 0, 0, 0, 0)
    assert report.version == 4
    with reader.open(project) as lake:
        for query, item in (("two", "a.txt"), ("three", "b.txt"), ("one", "c.txt")):
            assert lake.search("docs", query, 1).hits[0].item_id == item


def test_an_item_that_shrinks_leaves_no_surplus_chunks(make_project, run_ingest):
    """The chunks of an item are replaced together."""
    project = make_project()
    write(project, a=" ".join(f"word{i}" for i in range(700)))
    run_ingest(project)
    assert len(index_rows(project)) > 2
    write(project, a="short")
    run_ingest(project)
    assert index_rows(project) == [("a.txt", 0, "short")]


def test_a_limited_pull_deletes_nothing(make_project, run_ingest):
    """Absence means deletion only after a complete pull."""
    project = make_project()
    write(project, a="one", b="two", c="three")
    run_ingest(project)
    assert counts(run_ingest(project, limit=1)) == (0, 0, 0, 1, 0, 0)
    assert len(texts(project)) == 3


def test_an_empty_pull_is_refused_and_deletes_nothing(make_project, run_ingest):
    """A source that suddenly gives nothing is more likely broken than empty; --yes overrides."""
    project = make_project()
    write(project, a="one")
    run_ingest(project)
    (project.root / "docs/a.txt").unlink()
    with pytest.raises(Refused, match="--yes"):
        run_ingest(project)
    assert len(texts(project)) == 1
    assert counts(run_ingest(project, yes=True)) == (0, 0, 1, 0, 0, 0)
    assert texts(project) == {}


def test_a_pull_that_would_delete_much_is_refused(make_project, run_ingest):
    """More deletions than max_deleted stop the run before anything is deleted."""
    project = make_project(
        """
        encoders: {enc: {model: "fake:16"}}
        collections: {docs: {source: {kind: files, path: docs}, encoder: enc}}
        """
    )
    write(project, **{f"f{i}": f"text {i}" for i in range(10)})
    run_ingest(project)
    for i in range(3):
        (project.root / f"docs/f{i}.txt").unlink()
    with pytest.raises(Refused, match=r"3 of 10 items.*20%.*--yes"):
        run_ingest(project)
    assert len(texts(project)) == 10
    assert run_ingest(project, yes=True).deleted == 3


def test_a_dry_run_says_what_would_happen_and_leaves_nothing(make_project, run_ingest):
    """--dry-run neither makes a lake nor changes one."""
    project = make_project()
    write(project, a="one", b="two")
    assert counts(run_ingest(project, dry_run=True))[:2] == (2, 0)
    assert not project.lake.exists()
    run_ingest(project)
    write(project, a="edited", c="new")
    (project.root / "docs/b.txt").unlink()
    before = sorted(project.lake.rglob("*"))
    report = run_ingest(project, dry_run=True)
    assert (report.added, report.updated, report.deleted, report.encoded) == (1, 1, 1, 2)
    assert sorted(project.lake.rglob("*")) == before


def test_new_content_that_is_rejected_keeps_the_last_good_rows_and_says_so(make_project, run_ingest):
    """`stale_since` marks them; an unchanged reject is not tried again; good content clears it all."""
    project = make_project()
    write(project, a="one", b="two")
    run_ingest(project)
    (project.root / "docs/a.txt").write_bytes(b"\x00\x01\x02 binary")
    report = run_ingest(project)
    assert counts(report) == (0, 0, 0, 1, 1, 0)
    with reader.open(project) as lake:
        stale = lake.sql("SELECT text FROM docs WHERE stale_since IS NOT NULL").to_pylist()
        assert stale == [{"text": "one"}]
        rejects = lake.sql("SELECT item_id, stage FROM docs_rejects").to_pylist()
        assert rejects == [{"item_id": "a.txt", "stage": "decode"}]
    again = run_ingest(project)
    assert (again.rejected, again.rejected_known, again.version) == (1, 1, report.version)
    write(project, a="one")
    back = run_ingest(project)
    assert (back.rejected, back.encoded, back.updated) == (0, 0, 1)
    with reader.open(project) as lake:
        assert lake.sql("SELECT count(*) n FROM docs_rejects").to_pylist() == [{"n": 0}]
        assert lake.sql("SELECT count(*) n FROM docs WHERE stale_since IS NULL").to_pylist() == [{"n": 2}]


def test_a_reject_that_vanishes_from_the_source_vanishes_from_the_rejects(make_project, run_ingest):
    """Rejects are of what the source holds now."""
    project = make_project()
    write(project, a="one")
    (project.root / "docs/bad.txt").write_bytes(b"\x00")
    assert run_ingest(project).rejected == 1
    (project.root / "docs/bad.txt").unlink()
    assert run_ingest(project).rejected == 0
    with reader.open(project) as lake:
        assert lake.sql("SELECT count(*) n FROM docs_rejects").to_pylist() == [{"n": 0}]


def test_a_run_in_which_everything_was_rejected_fails(make_project, run_ingest):
    """Nothing usable in a pull is no success, and the rejects are kept to be read."""
    project = make_project()
    (project.root / "docs/bad.txt").write_bytes(b"\x00")
    with pytest.raises(RunFailed, match="evervec errors docs"):
        run_ingest(project)
    with reader.open(project) as lake:
        assert lake.sql("SELECT stage FROM docs_rejects").to_pylist() == [{"stage": "decode"}]


def products(folder: Path, rows):
    path = folder / "products.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return """
        encoders: {enc: {model: "fake:16"}}
        collections:
          products:
            source: {kind: table, path: products.jsonl, id: sku, text: description, attributes: [price, kind]}
            encoder: enc
            max_deleted: 1.0
    """


def test_changed_attributes_alone_are_updated_without_encoding(make_project, run_ingest, tmp_path, index_of):
    """New item and index rows, no encoder pass; content and vectors stay."""
    rows = [{"sku": f"p{i}", "description": f"thing {i}", "price": i, "kind": "x"} for i in range(4)]
    project = make_project(products(tmp_path, rows))
    run_ingest(project, "products")
    rows[2]["price"] = 99
    products(tmp_path, rows)
    report = run_ingest(project, "products")
    assert counts(report) == (0, 1, 0, 3, 0, 0)
    with reader.open(project) as lake:
        found = lake.sql("SELECT item_id, price FROM products WHERE price > 50").to_pylist()
        assert found == [{"item_id": "p2", "price": 99}]
    assert {r["item_id"]: r["price"] for r in index_of(project, "products").to_pylist()} == {
        "p0": 0,
        "p1": 1,
        "p2": 99,
        "p3": 3,
    }


def test_duplicate_ids_in_one_pull_are_an_error_that_names_the_rows(make_project, run_ingest, tmp_path):
    """Two rows with one id cannot both be the item; nothing is changed."""
    rows = [{"sku": s, "description": "d", "price": 1, "kind": "x"} for s in ("a", "b", "a")]
    project = make_project(products(tmp_path, rows))
    with pytest.raises(BadRows, match="'a' is in row 1 and row 3"):
        run_ingest(project, "products")
    assert Snapshot.open(project.lake / "products").version == 0


def test_duplicates_of_known_ids_are_found_too(make_project, run_ingest, tmp_path):
    """The check does not depend on whether the collection knows the id."""
    row = {"sku": "a", "description": "d", "price": 1, "kind": "x"}
    project = make_project(products(tmp_path, [row]))
    run_ingest(project, "products")
    products(tmp_path, [row, row])
    with pytest.raises(BadRows, match="'a' is in row 1 and row 2"):
        run_ingest(project, "products")


def test_a_row_that_cannot_be_identified_blocks_deletions(make_project, run_ingest, tmp_path):
    """A broken line may be the item that seems to be missing."""
    rows = [{"sku": f"p{i}", "description": f"thing {i}", "price": i, "kind": "x"} for i in range(4)]
    project = make_project(products(tmp_path, rows))
    run_ingest(project, "products")
    text = products(tmp_path, rows[:2])
    assert text
    with (tmp_path / "products.jsonl").open("a") as file:
        file.write('{"sku": "p2", "descr\n')
    report = run_ingest(project, "products")
    assert (report.deleted, report.rejected, report.unchanged) == (0, 1, 2)
    assert "nothing is deleted" in report.notes[0]
    assert run_ingest(project, "products").version == report.version
    products(tmp_path, rows[:2])
    mended = run_ingest(project, "products")
    assert (mended.deleted, mended.rejected) == (2, 0)


def test_another_encoder_is_not_an_ordinary_diff(make_project, run_ingest):
    """A changed fingerprint stops the ingest before any work and names the way."""
    project = make_project()
    write(project, a="one")
    run_ingest(project)
    changed = make_project(model="fake:32")
    with pytest.raises(EncoderChanged, match="upgrade") as caught:
        run_ingest(changed)
    assert caught.value.exit_code == 2
    assert run_ingest(make_project()).unchanged == 1


def test_another_chunking_is_not_an_ordinary_diff(make_project, run_ingest):
    """New spans need new vectors."""
    yaml = """
        encoders: {{enc: {{model: "fake:16"}}}}
        collections:
          docs: {{source: {{kind: files, path: docs}}, encoder: enc, chunk: {{max_tokens: {n}, overlap: 0}}}}
    """
    project = make_project(yaml.format(n=64))
    write(project, a="one")
    run_ingest(project)
    with pytest.raises(EncoderChanged, match="max_tokens: 64"):
        run_ingest(make_project(yaml.format(n=32)))


def test_a_missing_source_folder_is_an_error_before_any_work(make_project, run_ingest):
    """Given, expected, next."""
    project = make_project()
    (project.root / "docs").rmdir()
    with pytest.raises(SourceUnusable, match=r"does not exist; expected a folder.*evervec.yaml"):
        run_ingest(project)


def test_windows_are_committed_as_they_fill_and_deletions_come_last(make_project, run_ingest, monkeypatch):
    """Each window is a version of its own; a window never holds a part of an item."""
    monkeypatch.setattr(commit, "WINDOW_CHUNKS", 4)
    project = make_project()
    write(project, gone="to be deleted")
    run_ingest(project)
    (project.root / "docs/gone.txt").unlink()
    write(project, **{f"f{i:02}": f"text {i}" for i in range(10)})
    report = run_ingest(project)
    commits = Snapshot.open(project.lake / "docs").tail[1:]
    assert report.added == 10
    assert len(commits) == 3
    assert [c.counts.deleted for c in commits] == [0, 0, 1]
    assert all(c.counts.chunks <= 4 for c in commits)
    assert sum(c.counts.added for c in commits) == 10


def test_an_item_with_more_chunks_than_a_window_lands_whole(make_project, run_ingest, monkeypatch):
    """All chunks of an item land together or not at all."""
    monkeypatch.setattr(commit, "WINDOW_CHUNKS", 2)
    project = make_project()
    write(project, a=" ".join(f"word{i}" for i in range(2000)), b="short", c="short too")
    run_ingest(project)
    per_version = [c.counts.chunks for c in Snapshot.open(project.lake / "docs").tail]
    assert max(per_version) > 2
    assert sum(per_version) == len(index_rows(project))


def test_nothing_is_left_in_the_spool(make_project, run_ingest):
    """What was put aside for the encoders goes when the run ends, well or not."""
    project = make_project()
    write(project, a="one")
    run_ingest(project)
    assert not (project.lake / "docs/_spool").exists()
    (project.root / "docs/a.txt").write_bytes(b"\x00")
    with pytest.raises(RunFailed):
        run_ingest(project)
    assert not (project.lake / "docs/_spool").exists()


def test_a_stream_that_loses_items_is_not_reported_as_done(make_project, run_ingest, monkeypatch):
    """Fewer items out of the encoders than went in fail the run, and nothing is deleted."""
    from tasks import encode_text

    project = make_project()
    write(project, a="one", b="two")
    run_ingest(project)
    (project.root / "docs/a.txt").unlink()
    write(project, b="two, edited", c="three")
    whole = encode_text.Encode.__call__
    monkeypatch.setattr(encode_text.Encode, "__call__", lambda self, rows: whole(self, rows).slice(0, 1))
    with pytest.raises(RunFailed, match="1 of 2 items"):
        run_ingest(project)
    assert "a.txt" in texts(project)


def test_a_duplicate_of_which_one_is_rejected_is_a_duplicate(make_project, run_ingest, tmp_path):
    """A row with a bad attribute still has its id: two rows of one id must not both leave a trace."""
    rows = [{"sku": i, "description": f"thing {i}", "price": 1, "kind": "x"} for i in ("a", "b")]
    project = make_project(products(tmp_path, rows))
    run_ingest(project, "products")
    rows[0]["description"] = "edited"
    products(tmp_path, [*rows, {"sku": "a", "description": "dup", "price": "abc", "kind": "x"}])
    with pytest.raises(BadRows, match="'a' is in row 1 and a row rejected for price"):
        run_ingest(project, "products")
    assert texts(project, "products") == {"a": "thing a", "b": "thing b"}


def test_broken_rows_that_move_do_not_pile_up(make_project, run_ingest, tmp_path):
    """A reject without an id stands only as long as the source still has it, there."""
    yaml = """
        encoders: {enc: {model: "fake:16"}}
        collections: {rows: {source: {kind: table, path: rows.csv, id: id, text: text}, encoder: enc}}
    """
    project = make_project(yaml)
    for lines in (["a,1", "x,y,z"], ["a,1", "b,2", "x,y,z"], ["a,1", "b,2", "c,3", "x,y,z"]):
        (tmp_path / "rows.csv").write_text("\n".join(["id,text", *lines]) + "\n")
        run_ingest(project, "rows")
    with reader.open(project) as lake:
        found = lake.sql("SELECT uri FROM rows_rejects").to_pylist()
    assert [row["uri"].rpartition("#")[2] for row in found] == ["row=4"]


def test_many_refreshed_items_are_committed_in_windows(make_project, run_ingest, tmp_path, monkeypatch):
    """Attribute changes are bounded by the window like anything else."""
    rows = [{"sku": f"p{i}", "description": f"thing {i}", "price": i, "kind": "x"} for i in range(600)]
    project = make_project(products(tmp_path, rows))
    run_ingest(project, "products")
    for row in rows:
        row["kind"] = "y"
    products(tmp_path, rows)
    monkeypatch.setattr(commit, "WINDOW_CHUNKS", 300)
    report = run_ingest(project, "products")
    assert (report.updated, report.encoded) == (600, 0)
    assert report.version == 4
