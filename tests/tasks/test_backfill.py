"""Mapped rows give way to encoded ones: in the order asked for, within the budget, and each just once."""

import pyarrow.parquet as pq
import pytest

from storage import kept
from tasks import reader
from tasks.errors import NothingThere, OrderUnknown
from tasks.native import kept_table
from tasks.status import rejects
from tests.tasks import drifted
from tests.tasks.drifted import encoded, fill, held, opened

SPACE = "watched_96"


@pytest.fixture
def mapped(carried, copied):
    """A collection whose rows are maps into the space of `watched`, but for a sample."""
    return watched(copied(carried("map")))


@pytest.fixture
def bridged(carried, copied):
    """A collection whose queries are mapped, with a sample of rows by `watched` beside it."""
    return watched(copied(carried("bridge")))


def watched(project):
    from drifting import Watched

    Watched.seen.clear()
    return project


def rows_of(project):
    """The rows of the native space by their key."""
    spaces = [s for s in opened(project).spaces() if s.startswith(SPACE)]
    return held(project, spaces[0])


def items(project, origin):
    return {item_id for (item_id, _), row in rows_of(project).items() if row["origin"] == origin}


def text_of(item_id):
    return drifted.texts(120)[int(item_id[1:])]["text"]


def require_native(project):
    """Every row that is encoded is what the encoder gives for its text."""
    for (item_id, _), row in rows_of(project).items():
        if row["origin"] == "encoded":
            text = text_of(item_id)[row["chunk_start"] : row["chunk_end"]]
            assert row["vector"] == pytest.approx(encoded("New", [text])[0], abs=1e-5)
            assert (row["basis_id"], row["residual"]) == (None, None)


def worst_first(project):
    """Mapped items by the greatest error that is predicted of a row of theirs."""
    worst = {}
    for (item_id, _), row in rows_of(project).items():
        if row["origin"] == "mapped":
            worst[item_id] = max(worst.get(item_id, 0.0), row["residual"])
    return sorted(worst, key=lambda item_id: -worst[item_id])


def test_everything_becomes_native_in_the_end(mapped, index_of):
    """Budget by budget; coverage is the share of native rows, and a full one leaves nothing to do."""
    total, left = len(rows_of(mapped)), sum(r["origin"] == "mapped" for r in rows_of(mapped).values())
    covered = 1 - left / total
    for budget in (10, 30, 1_000):
        before = items(mapped, "encoded")
        done = fill(mapped, rows=budget)
        assert done.reencoded <= budget
        assert done.reencoded == min(left, budget) or 0 < budget - done.reencoded < 3  # items go in whole
        left -= done.reencoded
        assert (done.remaining, done.rejected) == (left, 0)
        assert done.coverage_before == pytest.approx(covered)
        covered = done.coverage_after
        assert covered == pytest.approx(1 - left / total)
        assert before <= items(mapped, "encoded")
    assert left == 0
    require_native(mapped)
    again = fill(mapped)
    assert (again.reencoded, again.remaining, again.coverage_before) == (0, 0, 1.0)
    table = index_of(mapped)
    assert set(table["origin"].to_pylist()) == {"encoded"}
    assert table.num_rows == total


def test_only_what_is_not_native_is_encoded(mapped):
    """The encoder sees each mapped chunk once, and none of the sample."""
    from drifting import Watched

    wanted = sorted(
        text_of(item_id)[row["chunk_start"] : row["chunk_end"]]
        for (item_id, _), row in rows_of(mapped).items()
        if row["origin"] == "mapped"
    )
    fill(mapped)
    assert sorted(Watched.seen) == wanted


@pytest.mark.parametrize("order", ["residual", "asked"])
def test_the_worst_maps_go_first(mapped, order):
    """By the greatest predicted error of an item's rows; `asked` too, where nothing was asked for."""
    ranked = worst_first(mapped)
    before = items(mapped, "encoded")
    fill(mapped, order, rows=20)
    first = items(mapped, "encoded") - before
    assert first == set(ranked[: len(first)])


def test_what_searches_wanted_goes_first(mapped):
    """The more often the sooner, then by residual; the notes go once nothing is left."""
    ranked = worst_first(mapped)
    often, once, never = ranked[-1], ranked[-2], "gone.txt"
    for ids in ([often, once, never], [often]):
        kept.note(mapped.lake / "docs", ids)
    for expected in (often, once, ranked[0]):
        before = items(mapped, "encoded")
        fill(mapped, "asked", rows=size_of(mapped, expected))
        assert items(mapped, "encoded") - before == {expected}
    assert kept.noted(mapped.lake / "docs")[1]
    fill(mapped, "asked")
    assert kept.noted(mapped.lake / "docs") == ({}, [])


def size_of(project, item_id):
    return sum(key[0] == item_id for key in rows_of(project))


def test_the_newest_go_first(docs, run_ingest):
    """By when their content came, before they were mapped."""
    project = watched(docs)
    late = ("i003", "i050", "i111", "i087")
    rows = [{**r, "text": r["text"][::-1]} if r["id"] in late else r for r in drifted.texts(120)]
    drifted.write(project.root, rows)
    run_ingest(project)
    drifted.build(project, "map", to="watched", sample=20)
    before = items(project, "encoded")
    wanted = set(late) - before
    assert len(wanted) > 1
    fill(project, "newest", rows=sum(size_of(project, item_id) for item_id in wanted))
    assert items(project, "encoded") - before == wanted


def test_the_highest_by_an_expression_go_first(mapped):
    """Over the columns of the collection, the best chunk of each item; null comes last."""
    before = items(mapped, "encoded")
    wanted = sorted(items(mapped, "mapped"), reverse=True)[:5]
    expression = "sql:CASE WHEN topic <> 'none' THEN item_id[2:]::INT END"
    fill(mapped, expression, rows=sum(size_of(mapped, item_id) for item_id in wanted))
    assert items(mapped, "encoded") - before == set(wanted)


def test_random_is_neither_by_name_nor_by_residual_and_always_the_same(carried, tmp_path):
    """A second run of the same would take the same ones."""
    import shutil

    from flows.settings import load_project

    taken = []
    for name in ("a", "b"):
        shutil.copytree(carried("map"), tmp_path / name)
        project = load_project(tmp_path / name)
        before = items(project, "encoded")
        ranked = worst_first(project)
        fill(project, "random", rows=20)
        taken.append(items(project, "encoded") - before)
    assert taken[0] == taken[1]
    assert taken[0] not in (set(ranked[: len(taken[0])]), set(sorted(ranked)[: len(taken[0])]))


@pytest.mark.parametrize(
    ("order", "error"),
    [("best", OrderUnknown), ("sql:", OrderUnknown), ("sql:price", OrderUnknown), ("", OrderUnknown)],
)
def test_an_order_that_there_is_not_changes_nothing(mapped, order, error):
    """It is named, and no row was encoded."""
    from drifting import Watched

    version = opened(mapped).version
    with pytest.raises(error):
        fill(mapped, order)
    assert opened(mapped).version == version
    assert Watched.seen == []


@pytest.mark.parametrize("budget", [{"rows": 0}, {"seconds": 0.0}, {"gpu_seconds": 0.0}])
def test_no_budget_encodes_nothing(mapped, budget):
    """Not even one round."""
    done = fill(mapped, **budget)
    assert (done.reencoded, done.coverage_before) == (0, done.coverage_after)


def test_a_budget_of_time_ends_soon_after_it(mapped, monkeypatch):
    """An encoder that is slow is not given hundreds of rows before anybody looks at the clock."""
    import time

    from drifting import Watched

    clock = time.monotonic
    monkeypatch.setattr("tasks.backfill.time.monotonic", lambda: clock() + 10 * len(Watched.seen))
    done = fill(mapped, seconds=60.0)
    assert 0 < done.reencoded <= 40
    assert done.remaining > 0


def test_what_cannot_be_encoded_is_tried_once(copied, ingested, run_ingest):
    """It stays the map that it is, can be found, and is a reject; the others are not held up by it."""
    project = watched(copied(ingested))
    rows = drifted.texts(120)
    rows[7]["text"] = "poisoned " + rows[7]["text"]
    drifted.write(project.root, rows)
    run_ingest(project)
    drifted.build(project, "map", to="watched", sample=20)
    mapped = sum(row["origin"] == "mapped" for row in rows_of(project).values())
    done = fill(project)
    assert (done.rejected, done.remaining, done.reencoded) == (1, 1, mapped - 1)
    assert [r["item_id"] for r in rejects(project, "docs")] == ["i007"]
    assert items(project, "mapped") == {"i007"}
    from drifting import Watched

    Watched.seen.clear()
    again = fill(project)
    assert (again.reencoded, again.rejected, again.remaining) == (0, 0, 1)
    assert Watched.seen == []
    with reader.open(project) as lake:
        assert "i007" in {h.item_id for h in lake.search("docs", text_of("i007"), 120).hits}


class Meanwhile(list):
    """What an encoder was given; the first time something else happens in between."""

    def __init__(self, what):
        self.what = what

    def extend(self, batch):
        super().extend(batch)
        what, self.what = self.what, None
        if what is not None:
            what()


def test_an_item_that_changes_meanwhile_is_encoded_as_it_is_then(mapped, run_ingest, monkeypatch, index_of):
    """Nothing of what it was is committed, and its neighbours of the same round are."""
    from drifting import Watched

    rows = drifted.texts(120)
    late = worst_first(mapped)[:3]

    def change():
        edited = [{**r, "text": f"anew {r['text']}"} if r["id"] == late[0] else r for r in rows]
        drifted.write(mapped.root, [r for r in edited if r["id"] != late[1]])
        run_ingest(mapped)

    monkeypatch.setattr(Watched, "seen", Meanwhile(change))
    done = fill(mapped)
    assert (done.remaining, done.rejected) == (0, 0)
    found = rows_of(mapped)
    assert late[1] not in {item_id for item_id, _ in found}
    assert {row["origin"] for row in found.values()} == {"encoded"}
    texts = {r["id"]: r["text"] for r in pq.read_table(mapped.root / "docs.parquet").to_pylist()}
    for (item_id, _), row in found.items():
        text = texts[item_id][row["chunk_start"] : row["chunk_end"]]
        assert row["vector"] == pytest.approx(encoded("New", [text])[0], abs=1e-5)
    assert index_of(mapped).num_rows == len(found)


def test_what_was_kept_goes_in_first_and_costs_nothing(mapped):
    """Whole files of the spool at once, whatever the budget; the spool is empty then."""
    from drifting import Watched

    rows = rows_of(mapped)
    few = [key for key, row in sorted(rows.items()) if row["origin"] == "mapped"][:6]
    texts = [text_of(i)[rows[i, n]["chunk_start"] : rows[i, n]["chunk_end"]] for i, n in few]
    table = kept_table(*zip(*few, strict=True), [rows[k]["chunk_hash"] for k in few], encoded("New", texts))
    space = opened(mapped).head.live.space_id
    kept.keep(mapped.lake / "docs", space, table)
    done = fill(mapped, rows=0)
    assert done.reencoded == 0
    assert all(rows_of(mapped)[key]["origin"] == "encoded" for key in few)
    assert kept.files(mapped.lake / "docs", space) == []
    assert Watched.seen == []
    require_native(mapped)


def test_the_space_beside_a_bridge_is_filled(bridged):
    """Items go in whole; old rows stay as they are; in the end every item has its native vector."""
    first = opened(bridged).head.releases[0].space_id
    old = held(bridged, first)
    before = fill(bridged, rows=0)
    done = fill(bridged, rows=25)
    assert done.coverage_after > before.coverage_after
    native = rows_of(bridged)
    whole = {item_id for item_id, _ in native}
    assert {key for key in old if key[0] in whole} == native.keys()
    assert fill(bridged).remaining == 0
    assert rows_of(bridged).keys() == old.keys()
    assert held(bridged, first) == old
    require_native(bridged)


def test_a_collection_without_maps_has_nothing_to_fill(docs, tmp_path):
    """An empty one says what to do."""
    assert fill(docs).reencoded == 0
    empty = drifted.project_in(tmp_path / "empty", drifted.texts(3))
    with pytest.raises(NothingThere, match="evervec ingest docs"):
        fill(empty)
