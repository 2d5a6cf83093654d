"""The sample of a probe: always the same items, rows that belong together, and held out or not by item."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage import kept
from tasks import sampling
from tasks.native import Native, kept_table, natively
from tasks.originals import job_of
from tasks.progress import quietly
from tasks.sampling import drawn, is_held, joined, stored
from tasks.targets import target_of
from tests.tasks import drifted
from tests.tasks.drifted import encoded, held, opened


def sampled(project, ids, needed=(), to="new"):
    """Old and new vectors of these items, as a probe has them."""
    snapshot = opened(project)
    target = target_of(project, snapshot, to)
    job = job_of(project, snapshot, target.release, target.spec, target.facts)
    with tempfile.TemporaryDirectory() as folder:
        native = natively(
            project, snapshot, job, target.release.chunking_id, ids, Path(folder), quietly, keep=False
        )
    return joined(stored(snapshot, target.source, ids), stored(snapshot, target.live, ids), native, needed)


def space_of(project):
    return opened(project).head.live.space_id


def test_the_same_items_are_drawn_again(docs, run_ingest):
    """Also once others were added, changed or taken away: those that are left keep their order."""
    first = drawn(opened(docs), space_of(docs), 50, ())
    assert first == drawn(opened(docs), space_of(docs), 90, ())[:50]
    assert first != sorted(first)
    rows = drifted.texts(200)
    drifted.write(docs.root, [r for n, r in enumerate(rows[::-1]) if n % 10])
    run_ingest(docs)
    then = drawn(opened(docs), space_of(docs), 50, ())
    known = [item_id for item_id in then if item_id in first]
    assert len(known) > 15
    assert known == [item_id for item_id in first if item_id in known]
    assert all(int(item_id[1:]) >= 120 for item_id in then if item_id not in first)


def test_needed_items_are_there_whatever_was_drawn(docs):
    """Beside those that are drawn, which they do not change; what is not in the collection is not."""
    needed = ["i119", "i003", "i077", "i050", "gone"]
    ids = drawn(opened(docs), space_of(docs), 2, needed)
    assert set(ids) == {*needed[:4], *drawn(opened(docs), space_of(docs), 2, ())}
    assert drawn(opened(docs), space_of(docs), 2, needed[::-1]) == ids
    more = drawn(opened(docs), space_of(docs), 30, needed)
    assert len(more) == len(set(more))
    assert set(more) == {*needed[:4], *drawn(opened(docs), space_of(docs), 30, ())}


def test_long_items_do_not_make_it_dear(docs, run_ingest):
    """At most twice as many chunks as items were asked for, but for the needed ones."""
    rows = [{**row, "text": " ".join([row["text"]] * 8)} for row in drifted.texts(60)]
    drifted.write(docs.root, rows)
    run_ingest(docs)
    ids = drawn(opened(docs), space_of(docs), 20, ())
    assert 0 < len(stored(opened(docs), opened(docs).head.live, ids).vectors) <= 40
    assert len(ids) < 10


def test_maps_are_not_drawn(carried, copied):
    """Not an item one chunk of which is a map, either: a basis is fitted on what encoders made."""
    project = copied(carried("map"))
    space = space_of(project)
    rows = held(project, space)
    mixed = next(key for key in sorted(rows) if key[1] == 1 and rows[key]["origin"] == "mapped")
    made = encoded("New", ["of no matter"])
    kept.keep(project.lake / "docs", space, kept_table([mixed[0]], [1], [rows[mixed]["chunk_hash"]], made))
    drifted.fill(project, rows=0)
    rows = held(project, space)
    assert {rows[mixed[0], 0]["origin"], rows[mixed]["origin"]} == {"mapped", "encoded"}
    ids = drawn(opened(project), space, 1_000, (mixed[0],))
    assert ids
    assert {row["origin"] for key, row in rows.items() if key[0] in ids} == {"encoded"}
    assert set(ids) == {key[0] for key in rows} - {k[0] for k, r in rows.items() if r["origin"] == "mapped"}


def test_rows_of_one_chunk_lie_side_by_side(docs):
    """Old, served and new vectors, texts and places: all of the same chunk, an item's in order."""
    ids = drawn(opened(docs), space_of(docs), 60, ())
    sample = sampled(docs, ids)
    assert sorted(sample.item_ids) == sorted(ids)
    rows = held(docs, space_of(docs))
    texts = {row["id"]: row["text"] for row in drifted.texts(120)}
    keys = list(zip(sample.rows["item_id"].to_pylist(), sample.rows["chunk_no"].to_pylist(), strict=True))
    assert [key[0] for key in keys] == [sample.item_ids[at] for at in sample.item_of]
    assert keys == [key for item_id in sample.item_ids for key in sorted(rows) if key[0] == item_id]
    assert any(number for _, number in keys)
    assert sample.first.tolist() == [at for at, (_, number) in enumerate(keys) if number == 0]
    spans = [(rows[key]["chunk_start"], rows[key]["chunk_end"]) for key in keys]
    assert sample.texts == [texts[k[0]][a:b] for k, (a, b) in zip(keys, spans, strict=True)]
    np.testing.assert_array_equal(sample.old, np.array([rows[key]["vector"] for key in keys], np.float32))
    np.testing.assert_array_equal(sample.served, sample.old)
    np.testing.assert_allclose(sample.new, encoded("New", sample.texts), atol=1e-6)


def test_items_of_which_something_lacks_are_left_out(docs):
    """One that the new encoder rejected, that was cut otherwise meanwhile, or that readers do not have."""
    snapshot = opened(docs)
    ids = drawn(snapshot, space_of(docs), 30, ())
    old = stored(snapshot, snapshot.head.live, ids)
    by_item = old.of_items()
    hashes = old.rows["chunk_hash"].to_pylist()
    chunks = {
        i: sampling.Chunks([hashes[r] for r in at], np.ones((len(at), 3), np.float32), ["x"] * len(at))
        for i, at in by_item.items()
    }
    chunks[ids[0]] = replace(chunks[ids[0]], hashes=[b"\x00" * 16])
    chunks[ids[1]] = replace(chunks[ids[1]], hashes=[*chunks[ids[1]].hashes, b"\x01" * 16])
    del chunks[ids[2]]
    served = stored(snapshot, snapshot.head.live, ids[:3] + ids[4:])
    sample = joined(old, served, Native(chunks), ())
    assert sorted(sample.item_ids) == sorted(ids[4:])
    assert len(sample.old) == len(sample.new) == len(sample.texts) == sample.rows.num_rows


def test_an_item_is_held_out_by_its_name(docs):
    """Some two fifths of all, always the same; what a query needs is held out whatever its name says."""
    names = [f"item {n}" for n in range(20_000)]
    assert np.mean([is_held(name) for name in names]) == pytest.approx(0.4, abs=0.01)
    ids = drawn(opened(docs), space_of(docs), 60, ())
    plain = sampled(docs, ids)
    assert plain.held.tolist() == [is_held(item_id) for item_id in plain.item_ids]
    fitted = [item_id for item_id in plain.item_ids if not is_held(item_id)][:5]
    judged = sampled(docs, ids, fitted)
    assert {i for i, h in zip(judged.item_ids, judged.held, strict=True) if h} == {
        *fitted,
        *(item_id for item_id in ids if is_held(item_id)),
    }


def test_where_a_draw_comes_and_whether_it_is_held_are_apart(docs):
    """The first of the draw are not those held out: another draw decides that."""
    ids = sorted((f"item {n}" for n in range(4_000)), key=sampling._draw)
    shares = [np.mean([is_held(i) for i in part]) for part in np.array_split(np.array(ids), 4)]
    assert shares == pytest.approx([0.4] * 4, abs=0.06)


def test_nothing_is_no_sample(docs):
    """Items that are gone leave no rows, and no error."""
    sample = sampled(docs, ["gone"])
    assert (sample.item_ids, len(sample.old), len(sample.new), len(sample.held)) == ([], 0, 0, 0)
    assert sample.item_of.tolist() == []
