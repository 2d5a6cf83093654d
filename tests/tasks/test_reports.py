"""Which stored probe still holds: of the same things, of about the same rows, and whole."""

import json
import logging
from dataclasses import replace

import pytest

from storage.snapshot import Snapshot
from tasks import reports
from tasks.gate import Limits
from tasks.probe import ProbeAsk, fingerprints
from tasks.probed import to_json
from tasks.targets import target_of
from tests.tasks import drifted
from tests.tasks.drifted import opened
from tests.tasks.probes import probe

OF = {"from": "aa", "to": "bb"}


def saved(project, **changes):
    """A probe of the collection as it is now, with changes, stored."""
    made = probe(**{"fingerprints": OF, "items": 120, "version": opened(project).version, **changes})
    reports.save(project.lake / "docs", made)
    return made


def newest(project, of=OF, queries_hash="cc" * 32, label="package"):
    return reports.newest(opened(project), of, queries_hash, label)


def test_the_newest_that_holds_is_found(docs):
    """By when it was made, whatever its folder is called; and by what it is of."""
    saved(docs, id="z", made_at="2026-01-02T00:00:00.000+00:00")
    last = saved(docs, id="m", made_at="2026-01-04T00:00:00.000+00:00")
    saved(docs, id="a", made_at="2026-01-03T00:00:00.000+00:00")
    assert newest(docs) == last
    assert newest(docs, {**OF, "to": "dd"}) is None
    assert newest(docs, {**OF, "asked": "sample=9"}) is None
    assert newest(docs, queries_hash=None) is None
    assert newest(docs, label=None) is None
    assert (docs.lake / "docs/reports/m/probe.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("changed", "holds"), [(6, True), (7, False)])
def test_a_twentieth_of_the_items_may_have_changed(docs, run_ingest, changed, holds):
    """Added, updated and deleted ones count, in however many versions; earlier ones do not."""
    rows = drifted.texts(120)
    drifted.write(docs.root, [{**row, "text": row["text"][::-1]} for row in rows])
    run_ingest(docs)
    rows = [{**row, "text": row["text"][::-1]} for row in rows]
    saved(docs)
    drifted.write(docs.root, [*rows[2:], *drifted.texts(122, seed=9)[120:]])
    run_ingest(docs)
    later = [{**row, "text": "other words"} if n < changed - 4 else row for n, row in enumerate(rows[2:])]
    drifted.write(docs.root, [*later, *drifted.texts(122, seed=9)[120:]])
    run_ingest(docs)
    assert (newest(docs) is not None) == holds


def test_a_probe_of_a_version_that_is_not_there_does_not_hold(docs):
    """The lake was restored from a backup, say: who knows what was measured."""
    saved(docs, version=opened(docs).version + 1)
    assert newest(docs) is None
    assert reports.newest(Snapshot.open(docs.lake / "nothing"), OF, None, None) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{",
        b"[]",
        json.dumps(to_json(probe())).encode()[:-9],
        json.dumps(to_json(probe()) | {"colour": "red"}).encode(),
    ],
    ids=["empty", "no text", "no object", "torn", "of another version"],
)
def test_what_cannot_be_read_is_passed_over(docs, content, caplog):
    """A probe can be made anew: nothing is held up by a stored one, and somebody is told."""
    good = saved(docs, id="good")
    folder = docs.lake / "docs/reports/bad"
    folder.mkdir()
    (folder / "probe.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert newest(docs) == good
    assert "reports/bad/probe.json" in caplog.text


ASK = ProbeAsk("new")


@pytest.mark.parametrize(
    "other",
    [
        ProbeAsk("newer"),
        replace(ASK, sample=99),
        replace(ASK, families="linear"),
        replace(ASK, cascades=(50,)),
        *(replace(ASK, limits=Limits(**{name: 0.25})) for name in Limits.__dataclass_fields__),
    ],
    ids=lambda ask: ask.settings,
)
def test_what_a_verdict_depends_on_is_what_a_probe_is_of(docs, other):
    """Another encoder, sample, choice of bases or cascades, other limits."""
    snapshot = opened(docs)
    assert fingerprints(target_of(docs, snapshot, other.to), other) != fingerprints(
        target_of(docs, snapshot, ASK.to), ASK
    )


def test_a_probe_holds_for_the_release_that_was_live(docs):
    """Over the same rows a bridge answers otherwise: what was the status quo before it is not any more."""
    ask = ProbeAsk("newer")
    before = fingerprints(target_of(docs, opened(docs), "newer"), ask)
    drifted.build(docs, "bridge", promote=False)
    assert fingerprints(target_of(docs, opened(docs), "newer"), ask) == before
    drifted.build(docs, "bridge", cascade=20)
    assert fingerprints(target_of(docs, opened(docs), "newer"), ask) != before
