"""Rankings: scores that mean different things are never compared as they are."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.basis.files import from_bytes
from storage import bases
from storage.commits import Calibrator
from storage.vectors import Hits
from tasks import reader
from tasks.paths import space_of
from tasks.probed import Calibrated
from tasks.ranking import Leg, Ranking, Uncalibrated, joined
from tasks.reader import Pinned
from tests.tasks import drifted

MAPPED = Calibrator(space_id="new", origin="mapped", scores=(0.0, 0.5, 1.0), relevance=(0.0, 0.1, 0.9))
ENCODED = Calibrator(space_id="new", origin="encoded", scores=(0.2, 0.4), relevance=(0.3, 0.7))


def hits(keys, scores, origin="encoded"):
    """Chunks `(item, number)` with their scores."""
    rows = {
        "item_id": pa.array([k[0] for k in keys], pa.string()),
        "chunk_no": pa.array([k[1] for k in keys], pa.int32()),
        "origin": pa.array([origin] * len(keys), pa.string()),
    }
    return Hits(pa.table(rows), np.array(scores, np.float32))


def keys(rows):
    return list(zip(rows["item_id"].to_pylist(), rows["chunk_no"].to_pylist(), strict=True))


def test_there_is_no_way_around_the_two_that_make_one():
    """A ranking of tables and scores that somebody put together is refused."""
    found = hits([("a", 0)], [1.0])
    with pytest.raises(TypeError, match=r"Ranking\.of or Ranking\.merged"):
        Ranking(found.rows, found.scores, object())


@pytest.mark.parametrize(
    ("legs", "calibrators"),
    [
        ([("old", None), ("new", "encoded")], [ENCODED]),
        ([("new", "mapped"), ("new", "encoded")], [ENCODED]),
        ([("new", "encoded"), ("old", "encoded")], [ENCODED, MAPPED]),
        ([("new", "encoded")], []),
    ],
    ids=["no origin", "other origin", "other space", "none"],
)
def test_a_leg_without_a_calibrator_of_its_own_is_refused(legs, calibrators):
    """Neither that of another space nor that of another origin stands in."""
    made = [Leg(space, hits([("a", n)], [0.5]), origin) for n, (space, origin) in enumerate(legs)]
    with pytest.raises(Uncalibrated, match="cannot be compared"):
        Ranking.merged(made, calibrators)


KEY = st.tuples(st.sampled_from("abcdef"), st.integers(0, 1))
SCORE = st.integers(-512, 1536).map(lambda n: n / 1024)
LEG = st.lists(st.tuples(KEY, SCORE), max_size=8, unique_by=lambda hit: hit[0])


@settings(deadline=None)
@given(encoded=LEG, mapped=LEG)
def test_relevance_decides_and_the_raw_score_where_it_is_equal(encoded, mapped):
    """A chunk that both found counts once, as the first of them has it."""
    legs = [
        Leg("new", hits([k for k, _ in found], [s for _, s in found], origin), origin)
        for found, origin in ((encoded, "encoded"), (mapped, "mapped"))
    ]
    worth = {}
    for found, calibrator in ((encoded, ENCODED), (mapped, MAPPED)):
        for key, score in found:
            share = float(np.interp(score, calibrator.scores, calibrator.relevance))
            worth.setdefault(key, share + 1e-6 * score)
    got = Ranking.merged(legs, [MAPPED, ENCODED])
    assert sorted(keys(got.rows)) == sorted(worth)
    np.testing.assert_allclose(got.scores, sorted(worth.values(), reverse=True), atol=1e-12)
    np.testing.assert_allclose(got.scores, [worth[key] for key in keys(got.rows)], atol=1e-12)
    known = dict(encoded)
    assert got.rows["origin"].to_pylist() == [
        "encoded" if key in known else "mapped" for key in keys(got.rows)
    ]


@settings(deadline=None)
@given(found=LEG)
def test_the_order_within_an_origin_stands(found):
    """What a calibration makes equal, beyond its ends say, keeps the order of its scores."""
    one = Leg("new", hits([k for k, _ in found], [s for _, s in found]), "encoded")
    by_score = [score for _, score in sorted(found, key=lambda hit: -hit[1])]
    merged = [dict(found)[key] for key in keys(Ranking.merged([one], [ENCODED]).rows)]
    assert merged == by_score
    assert [dict(found)[key] for key in keys(Ranking.of(one).rows)] == by_score


def test_joined_candidates_have_no_score():
    """Each is there once, as the first search has it, and nothing could rank them by mistake."""
    both = joined(hits([("a", 0), ("b", 0)], [0.9, 0.1]), hits([("b", 0), ("b", 1)], [0.8, 0.7], "mapped"))
    assert keys(both.rows) == [("a", 0), ("b", 0), ("b", 1)]
    assert both.rows["origin"].to_pylist() == ["encoded", "encoded", "mapped"]
    assert np.isnan(both.scores).all()


QUERY = drifted.texts(1, seed=50)[0]["text"]


def known(strategy, **points):
    """Calibrators of a strategy by origin."""
    return [Calibrated(strategy, o, s, r) for o, (s, r) in points.items()]


def expected(legs):
    """Items by the relevance of their best chunk; `legs` are rows, their scores, and a calibrator each."""
    worth = {}
    for rows_of, scores, (points, shares) in legs:
        for (item_id, number), score in zip(rows_of, scores, strict=True):
            share = float(np.interp(score, points, shares)) + 1e-6 * float(score)
            worth.setdefault((item_id, number), share)
    best = {}
    for (item_id, number), share in sorted(worth.items(), key=lambda hit: -hit[1]):
        best.setdefault(item_id, (number, share))
    return [(item_id, number, share) for item_id, (number, share) in best.items()]


def cosines(query, rows_of):
    return np.array([row["vector"] for row in rows_of.values()]) @ query


def require_ranked(hits, ranking):
    assert [(h.item_id, h.chunk_no) for h in hits] == [(i, n) for i, n, _ in ranking[: len(hits)]]
    assert [h.score for h in hits] == pytest.approx([s for *_, s in ranking[: len(hits)]], abs=1e-6)


def test_maps_and_native_rows_rank_by_the_calibrators_of_their_release(docs):
    """Where a map of 0.9 is worth less than a native 0.5, every native row comes before every map."""
    points = {"mapped": ((0.0, 1.0), (0.0, 0.2)), "encoded": ((-0.2, 1.0), (0.3, 0.9))}
    release = drifted.build(docs, "map", calibrators=known("map", **points))
    rows = drifted.held(docs, release.space_id)
    query = drifted.encoded("New", [QUERY])[0]
    apart = {o: {k: r for k, r in rows.items() if r["origin"] == o} for o in points}
    ranking = expected([(apart[o], cosines(query, apart[o]), points[o]) for o in points])
    with reader.open(docs) as lake:
        require_ranked(lake.search("docs", QUERY, 3).hits, ranking)
        found = lake.search("docs", QUERY, 120).hits
        require_ranked(found, ranking)
        assert sum(h.origin == "encoded" for h in found) > 30
        assert [h.origin for h in found] == sorted(h.origin for h in found)
        assert lake.search("docs", QUERY, where="topic = 'none'").hits == ()
        with pytest.raises(ValueError, match="has no calibrator"):
            lake.search("docs", QUERY, release=uncalibrated(docs))


def uncalibrated(project):
    """A release that calibrates maps alone, though there are native rows too."""
    points = known("map", mapped=((0.0, 1.0), (0.0, 0.2)))
    return Pinned(drifted.build(project, "map", calibrators=points, promote=False).release)


def test_rows_of_two_spaces_rank_by_the_calibrators_of_a_bridge(docs):
    """Old rows by the mapped query, native ones by the query itself; a chunk in both counts as native."""
    points = {"bridged": ((0.0, 1.0), (0.0, 0.5)), "encoded": ((0.0, 1.0), (0.1, 0.9))}
    release = drifted.build(docs, "bridge", calibrators=known("bridge", **points))
    by = drifted.opened(docs).head.release(release.through)
    native, old = drifted.held(docs, by.space_id), drifted.held(docs, release.space_id)
    query = drifted.encoded("New", [QUERY])[0]
    basis = from_bytes(bases.read(drifted.opened(docs).root, release.basis))
    recall = basis.apply(query[None], space=space_of(by), direction="queries")[0]
    ranking = expected(
        [(native, cosines(query, native), points["encoded"]), (old, cosines(recall, old), points["bridged"])]
    )
    with reader.open(docs) as lake:
        for k in (3, 120):
            found = lake.search("docs", QUERY, k).hits
            assert len(found) == k
            require_ranked(found, ranking)
        assert lake.search("docs", QUERY, where="topic = 'none'").hits == ()
