"""The views of a collection with two releases: the live space decides what is shown, and nothing is lost."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from storage import sql, views
from storage.commits import succeeding
from storage.drafting import drafting
from storage.snapshot import Snapshot
from storage.views import Bound


def _no_embedding(collection, text):
    return np.zeros(4, np.float32)


def _no_search(collection, text, k):
    return []


def ask(lake, query, at=None):
    """Rows of a query over the views of `docs`, as dicts."""
    snapshot = Snapshot.open(lake / "docs", at=at)
    connection = sql.connect(lake, {"docs": snapshot}, _no_embedding, _no_search)
    try:
        return sql.run(connection, query).to_pylist()
    finally:
        connection.close()


def key(row):
    return row["item_id"], row["chunk_no"]


def shown(lake, at=None):
    """The view C, by chunk: text, space and vector."""
    rows = ask(lake, "SELECT item_id, chunk_no, text, n, space_id, origin, vector FROM docs", at)
    found = {key(r): (r["text"], r["n"], r["space_id"], r["origin"], r["vector"]) for r in rows}
    assert len(found) == len(rows), "a chunk is shown twice"
    return found


def chunks(toy, items, space=None, dim=None):
    """What C should show of these items; without a space, chunks that the live one lacks."""
    return {
        (item_id, number): (
            text,
            item.n,
            space,
            "encoded" if space else None,
            toy.vector_of(text, dim) if space else None,
        )
        for item_id, item in items.items()
        for number, text in enumerate(item.chunks)
    }


@pytest.fixture
def promote(lake):
    """Make a release the live one."""

    def to(number):
        with drafting(lake / "docs") as draft:
            head = draft.before.head
            record = succeeding(head, verb="promote", run_id="run", started_at=head.started_at)
            changed = [
                r.model_copy(update={"version": record.number}) if r.release == number else r
                for r in head.releases
            ]
            draft.publish(record.model_copy(update={"live_release": number, "releases": tuple(changed)}))

    return to


@pytest.fixture
def two(toy, commit):
    """Items of which all but `c` have vectors in a second space."""
    texts = {"a": "one two three", "b": "four", "c": "five six"}
    items = {item_id: toy.Item(text, k) for k, (item_id, text) in enumerate(texts.items())}
    commit(toy.window(items))
    commit(toy.filling({k: items[k] for k in "ab"}))
    return items


def test_a_release_that_is_not_live_changes_nothing_in_the_view(two, toy, lake):
    """C shows the live space; what is made for another one meanwhile is seen in C_vectors alone."""
    assert shown(lake) == chunks(toy, two, toy.SPACE, toy.DIM)
    rows = ask(lake, "SELECT space_id, item_id, chunk_no, vector FROM docs_vectors")
    expected = {
        (space, *place): values[4]
        for space, dim, items in (
            (toy.SPACE, toy.DIM, two),
            (toy.SECOND_SPACE, toy.SECOND_DIM, {k: two[k] for k in "ab"}),
        )
        for place, values in chunks(toy, items, space, dim).items()
    }
    assert {(r["space_id"], *key(r)): r["vector"] for r in rows} == expected
    assert len(rows) == len(expected)


def test_chunks_that_the_live_space_lacks_have_no_vector(two, toy, lake, promote):
    """After a promotion every item is still there, with its text; where it has no vector yet, it has null."""
    promote(2)
    ready, lacking = {k: two[k] for k in "ab"}, {"c": two["c"]}
    expected = chunks(toy, ready, toy.SECOND_SPACE, toy.SECOND_DIM) | chunks(toy, lacking)
    assert shown(lake) == expected
    (kind,) = {r["kind"] for r in ask(lake, "SELECT typeof(vector) AS kind FROM docs")}
    assert kind == f"FLOAT[{toy.SECOND_DIM}]"
    assert ask(lake, "SELECT count(*) AS n FROM docs WHERE vector IS NULL") == [{"n": 2}]
    same = "array_cosine_similarity(vector, vector)"
    found = ask(lake, f"SELECT item_id, {same} AS s FROM docs ORDER BY s DESC NULLS LAST")
    assert [r["s"] for r in found[-2:]] == [None, None], "a comparison with no vector is null, no error"


def test_the_past_is_shown_with_the_release_that_was_live_then(two, toy, lake, promote):
    """Views of a version are those of its own record."""
    promote(2)
    for version, space, dim in ((1, toy.SPACE, toy.DIM), (2, toy.SPACE, toy.DIM)):
        assert shown(lake, version) == chunks(toy, two, space, dim)
    promote(1)
    assert shown(lake) == chunks(toy, two, toy.SPACE, toy.DIM)
    assert len([v for v in shown(lake, 3).values() if v[4] is None]) == 2


def test_an_item_that_only_another_space_has_is_shown(two, toy, lake, commit):
    """Vectors that came in another space alone leave the item visible in C, without a vector."""
    new = {"d": toy.Item("seven eight", 8)}
    vectors = {toy.SECOND_SPACE: toy.vectors_table(new, toy.SECOND_DIM)}
    index = {toy.SECOND_SPACE: toy.index_table(new, dim=toy.SECOND_DIM)}
    commit(toy.window(new, release=toy.SECOND, vectors=vectors, index=index))
    assert shown(lake) == chunks(toy, two, toy.SPACE, toy.DIM) | chunks(toy, new)
    commit(toy.window(deleted=["d"]))
    assert shown(lake) == chunks(toy, two, toy.SPACE, toy.DIM)


def test_an_item_that_the_live_space_has_shows_no_chunks_of_another_cut(two, toy, lake, promote, commit):
    """A release may cut items otherwise: what the live one has whole is not filled up with its pieces."""
    item = two["a"]
    rows = toy.vectors_table({"a": item}, toy.SECOND_DIM).slice(0, 1).to_pylist()
    whole = toy.vectors_table({}, toy.SECOND_DIM).schema
    cut = [{**rows[0], "chunk_start": 0, "chunk_end": len(item.text)}]
    index = toy.index_table({"a": item}, dim=toy.SECOND_DIM).slice(0, 1)
    table = pa.Table.from_pylist(cut, whole)
    commit(toy.filling({"a": item}, vectors={toy.SECOND_SPACE: table}, index={toy.SECOND_SPACE: index}))
    promote(2)
    texts = ask(lake, "SELECT text FROM docs WHERE item_id = 'a'")
    assert texts == [{"text": item.text}]


def test_releases_and_spaces_are_listed(two, toy, lake, commit, promote):
    """`evervec.releases` says which is live and since when, `evervec.spaces` where vectors came from."""
    commit(toy.filling({"b": two["b"]}, origin="imported"))
    columns = "release, space_id, dim, live, retired, since_version"
    releases = ask(lake, f"SELECT {columns} FROM evervec.releases ORDER BY release")
    assert [tuple(r.values()) for r in releases] == [
        (1, toy.SPACE, toy.DIM, True, False, 1),
        (2, toy.SECOND_SPACE, toy.SECOND_DIM, False, False, None),
    ]
    spaces = ask(lake, "SELECT space_id, encoded, mapped, imported FROM evervec.spaces ORDER BY encoded DESC")
    assert [tuple(r.values()) for r in spaces] == [(toy.SPACE, 6, 0, 0), (toy.SECOND_SPACE, 3, 0, 1)]
    promote(2)
    releases = ask(lake, "SELECT live, since_version FROM evervec.releases ORDER BY release")
    assert [tuple(r.values()) for r in releases] == [(False, 1), (True, 4)]
    (line,) = ask(lake, "SELECT release, space_id, items, chunks FROM evervec.collections")
    assert tuple(line.values()) == (2, toy.SECOND_SPACE, 3, 4)
    versions = ask(lake, "SELECT version, release, space_id, chunks FROM docs_versions ORDER BY version")
    assert [tuple(v.values()) for v in versions] == [
        (1, 1, toy.SPACE, 6),
        (2, 1, toy.SPACE, 6),
        (3, 1, toy.SPACE, 6),
        (4, 2, toy.SECOND_SPACE, 4),
    ]


def test_a_space_without_vectors_yet_is_shown_as_such(toy, lake, commit, promote):
    """A release that has none: no rows in C_vectors; once live, all chunks without a vector of its length."""
    items = {"a": toy.Item("one two", 1)}
    commit(toy.window(items))
    commit(toy.window(release=toy.SECOND))
    assert {r["space_id"] for r in ask(lake, "SELECT space_id FROM docs_vectors")} == {toy.SPACE}
    promote(2)
    assert shown(lake) == chunks(toy, items)
    assert ask(lake, "SELECT DISTINCT typeof(vector) AS kind FROM docs") == [
        {"kind": f"FLOAT[{toy.SECOND_DIM}]"}
    ]
    commit(toy.window(deleted=["a"]))
    assert shown(lake) == {}


def index_rows(toy, lake, snapshot, space):
    """What the index of a space must hold, as the views' SQL has it."""
    connection = views.connect(lake)
    try:
        query = views.index_rows(connection, Bound("docs", snapshot, snapshot.head), space)
        rows = connection.sql(query).to_arrow_table().to_pylist()
    finally:
        connection.close()
    return sorted((r["item_id"], r["chunk_no"], r["text"], r["n"], tuple(r["vector"])) for r in rows)


def test_any_sequence_of_windows_is_shown_as_a_dict_would(toy):
    """C, C_items, C_rejects and what both indexes must hold equal the model, whatever was put and filled."""
    fills = st.lists(st.sets(st.sampled_from(toy.IDS)), min_size=6, max_size=6)
    phases = [Phase.explicit, Phase.generate]

    @settings(max_examples=4, deadline=None, derandomize=True, database=None, phases=phases)
    @given(toy.windows, fills)
    def check(history, fills):
        with tempfile.TemporaryDirectory() as folder:
            lake = Path(folder)
            *_, (snapshot, model, _) = toy.with_two_releases(lake, history, fills)
            assert shown(lake) == chunks(toy, model.items, toy.SPACE, toy.DIM)
            items = ask(lake, "SELECT item_id, text, n, stale_since FROM docs_items")
            found = {r["item_id"]: toy.Item(r["text"], r["n"], r["stale_since"] is not None) for r in items}
            assert found == model.items
            assert len(items) == len(model.items)
            rejects = ask(lake, "SELECT item_id, uri, reason FROM docs_rejects")
            assert sorted(tuple(r.values()) for r in rejects) == sorted(model.rejects.values())
            for space in (toy.SPACE, toy.SECOND_SPACE):
                expected = toy.read_index(lake, snapshot.head, space)
                assert index_rows(toy, lake, snapshot, space) == expected

    check()
