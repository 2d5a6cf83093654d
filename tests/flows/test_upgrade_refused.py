"""Upgrades that are not carried out: the exit code, what is said, and that nothing was changed."""

import json

import pytest

from storage.locks import lock
from tests.flows.topics import ASK, Desk

LABEL = ("--label", "topic")
QUICK = ("--sample", 160, "--families", "linear", "--cascade", 0)
NEW = ("--to", "new", *LABEL, *QUICK)
NO_UPGRADE = {
    "a worse encoder": (
        ("--to", "worse", *LABEL, *QUICK),
        4,
        "stay on old_24_0c259b71: the new encoder is no better than the old one",
    ),
    "a strategy that does not pass": (
        ("--to", "worse", *LABEL, *QUICK, "--strategy", "map"),
        4,
        "map does not pass the gate: no better than the status quo",
    ),
    "force without --yes": (
        ("--to", "worse", *LABEL, *QUICK, "--force-strategy", "map"),
        3,
        "evervec upgrade docs --to worse --force-strategy map --yes",
    ),
    "an unknown encoder": (("--to", "newest"), 2, "there are: old, new, newer"),
    "an encoder of pictures": (("--to", "pictures"), 2, "is for image, collection 'docs' holds text"),
    "one vector for all": (("--to", "constant", *QUICK), 4, "one and the same vector for all of 160"),
    "no strategy of that kind": (
        ("--to", "same", *QUICK, "--strategy", "map"),
        4,
        "map was not measured for collection 'docs'; there are: reuse",
    ),
    "too few pairs": (
        ("--to", "new", *LABEL, "--sample", 5),
        4,
        "too few to conclude anything from (at least 16 and 20). Give a larger --sample",
    ),
    "a label that each item has alone": (("--to", "new", "--label", "n", *QUICK), 4, "and 0 queries"),
    "a label that is no column": (("--to", "new", "--label", "colour"), 2, "--label colour: Binder Error"),
    "a label that is one for all": (("--to", "new", "--label", "'x'"), 2, "All items have the same."),
    "a label that no item has": (("--to", "new", "--label", "NULL"), 2, "No item has one."),
    "a label that is a statement": (("--to", "new", "--label", "n) FROM docs; SELECT (1"), 2, "--label n)"),
    "money without a price": (("--to", "new", "--max-cost", "3.50"), 2, "has no `price_per_hour:`"),
    "a cost of no kind": (("--to", "new", "--max-cost", "3rows"), 2, "expected money, or a time as 90s"),
    "no cost": (("--to", "new", "--max-cost", "0s"), 2, "expected money, or a time as 90s"),
    "new spans for a map": (
        (*NEW, "--rechunk", "--strategy", "map"),
        2,
        "--rechunk makes new spans, which need new vectors",
    ),
    "two strategies": ((*NEW, "--strategy", "map", "--force-strategy", "map"), 2, "not allowed with"),
    "an unknown strategy": ((*NEW, "--strategy", "magic"), 2, "invalid choice: 'magic'"),
    "no encoder": ((), 2, "the following arguments are required: --to"),
}
BAD_QUERIES = {
    "": "is empty; expected one object a line",
    '{"query": "a", "relevant": ["d0001"]}\nnonsense': "line 2: not JSON",
    '["a"]': "line 1: no text under `query`",
    '{"query": " ", "relevant": ["d0001"]}': "line 1: no text under `query`",
    '{"query": "a", "relevant": "d0001"}': "line 1: no ids under `relevant`",
    '{"query": "a", "relevant": [7]}': "line 1: no ids under `relevant`",
    '{"query": "a", "relevant": ["d0001x", "d"]}': "none of the 1 queries",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A project with 240 ingested texts, never upgraded."""
    made = Desk.made(tmp_path_factory.mktemp("refused"))
    made.evervec("ingest", "docs")
    return made


@pytest.fixture
def unchanged(desk):
    """No version comes of what is done meanwhile."""
    before = desk.evervec("history", "docs")
    yield
    assert desk.evervec("history", "docs") == before
    assert len(before["versions"]) == 1


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("case", NO_UPGRADE)
def test_no_upgrade(case, desk):
    """Exit code and message say why, and what to do instead; the collection is as it was."""
    words, code, said = NO_UPGRADE[case]
    assert said in desk.refused("upgrade", "docs", *words, code=code)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("content", BAD_QUERIES)
def test_queries_that_cannot_be_measured_with(content, desk, tmp_path):
    """The file, and the line, are named."""
    path = tmp_path / "queries.jsonl"
    path.write_text(content)
    for verb in ("probe", "upgrade"):
        said = desk.refused(verb, "docs", "--to", "new", "--queries", path, code=2)
        assert str(path) in said
        assert BAD_QUERIES[content] in said
    gone = ("probe", "docs", "--to", "new", "--queries", tmp_path / "gone")
    assert "cannot be read" in desk.refused(*gone, code=2)


@pytest.mark.usefixtures("unchanged")
def test_queries_of_other_items_are_counted_and_left_out(desk, tmp_path):
    """Those with an answer here are measured with, as far as items remain to fit on; no label beside them."""
    rows = desk.rows()
    path = tmp_path / "queries.jsonl"
    lines = [{"query": row["text"], "relevant": [i, "unknown"], "who": "me"} for i, row in rows.items()]
    lines += [{"query": "whatever", "relevant": ["unknown"]}] * 7
    path.write_text("\n".join(map(json.dumps, lines)))
    found = desk.evervec("probe", "docs", "--to", "new", "--queries", path, *QUICK)
    assert (found["tier"], found["metric"], found["queries_unknown"]) == ("judged", "recall@10", 7)
    assert (found["queries"], found["pairs"] > 16) == (64, True)
    assert "176 more judged queries were left out, so that items remain to fit maps on." in found["notes"]
    assert found["ceiling"] == 1.0
    both = desk.refused("probe", "docs", "--to", "new", "--queries", path, *LABEL, code=2)
    assert "give --queries or --label, not both" in both


@pytest.mark.usefixtures("unchanged")
def test_the_verdict_to_encode_everything_needs_yes(desk, tmp_path):
    """Exit code 3 with what it takes; with --yes it is carried out."""
    own = desk.copied(tmp_path)
    own.configure("max_deleted: 1.0", "max_deleted: 1.0\n    min_gap_closed: 1.0\n    price_per_hour: 2.0")
    said = own.refused("upgrade", "docs", *NEW, code=3)
    assert "the verdict is to encode everything anew" in said
    assert "That encodes 80 rows, takes some 0 s and costs 0.00: evervec upgrade docs --to new --yes" in said
    assert own.head() == (1, 1)
    done = own.evervec("upgrade", "docs", *NEW, "--yes")
    assert (done["strategy"], done["verdict"], done["forced"]) == ("reencode", "reencode", False)
    assert done["encoded"] == 240


@pytest.mark.usefixtures("unchanged")
def test_what_costs_too_much_is_not_done(desk, tmp_path):
    """A limit in money, where there is a price: nothing may be afforded, so that all stays."""
    own = desk.copied(tmp_path)
    own.configure("max_deleted: 1.0", "max_deleted: 1.0\n    price_per_hour: 2.0")
    said = own.refused("upgrade", "docs", "--to", "new", *LABEL, *QUICK, "--max-cost", "0.0000000001", code=4)
    assert "costs more than" in said
    assert own.head() == (1, 1)


@pytest.mark.usefixtures("unchanged")
def test_a_forced_upgrade_goes_live_only_by_force(desk, tmp_path):
    """What the gate did not let pass is not promoted by the next plain command; --yes carries it out."""
    own = desk.copied(tmp_path)
    worse = ("upgrade", "docs", "--to", "worse", *LABEL, *QUICK)
    built = own.evervec(*worse, "--force-strategy", "map", "--yes", "--no-promote")
    assert (built["forced"], built["verdict"], built["promoted"]) == (True, "stay", False)
    assert "stay on" in own.refused(*worse, code=4)
    assert own.head()[0] == 1
    done = own.evervec(*worse, "--force-strategy", "map", "--yes")
    assert (done["forced"], done["release"], done["promoted"]) == (True, built["release"], True)
    assert own.sql("SELECT forced FROM evervec.releases WHERE live") == [{"forced": True}]
    own.whole()


@pytest.mark.usefixtures("unchanged")
def test_too_small_a_collection_is_encoded_anew_as_the_message_says(desk, tmp_path):
    """The command in the message of exit code 4 works, and needs its --yes."""
    own = Desk.made(tmp_path / "small", 12)
    own.evervec("ingest", "docs")
    command = own.refused("upgrade", "docs", *NEW, code=4).rpartition(": evervec ")[2].split()
    assert command == ["upgrade", "docs", "--to", "new", "--force-strategy", "reencode", "--yes"]
    assert "--yes" in own.refused(*command[:-1], code=3)
    would = own.evervec(*command, "--dry-run")
    done = own.evervec(*command)
    for report in (would, done):
        assert (report["strategy"], report["forced"], report["encoded"]) == ("reencode", True, 12)
    assert done["promoted"]
    own.whole()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verb", [("upgrade", "--to", "new"), ("backfill",)])
def test_a_second_one_is_refused_and_the_first_is_named(verb, desk):
    """One upgrade or backfill of a collection at a time; a dry run may look."""
    with lock(desk.folder / "lake" / "docs", "upgrade"):
        assert "upgrade of collection 'docs' is held by process" in desk.refused(
            verb[0], "docs", *verb[1:], code=3
        )
        desk.evervec("backfill", "docs", "--dry-run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget", "3x"), "expected 500rows, 10m, 2h or 2gpuh"),
        (("--budget", "0rows"), "expected 500rows, 10m, 2h or 2gpuh"),
        (("--order", "magic"), "--order magic: there are"),
        (("--order", "sql:colour"), "--order sql:colour"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_a_backfill_that_cannot_be(words, said, desk):
    """Exit code 2 names what was expected."""
    assert said in desk.refused("backfill", "docs", *words, code=2)


@pytest.mark.usefixtures("unchanged")
def test_nothing_to_upgrade(desk, tmp_path):
    """An empty collection, and the encoder that is live already."""
    empty = Desk.made(tmp_path / "empty")
    for verb in (("probe", "--to", "new"), ("upgrade", "--to", "new"), ("backfill",)):
        assert "evervec ingest docs" in empty.refused(verb[0], "docs", *verb[1:], code=2)
    done = desk.evervec("upgrade", "docs", "--to", "old")
    assert (done["release"], done["promoted"], done["note"]) == (
        1,
        True,
        "release 1 is live already (native)",
    )
    found = desk.evervec("probe", "docs", "--to", "old", *ASK[2:])
    assert found["verdict"]["strategy"] == "reuse"
    done = desk.evervec("backfill", "docs")
    assert (done["reencoded"], done["remaining"], done["coverage_after"]) == (0, 0, 1.0)
