"""doctor on a lake as users make it: findings, repair, the ingest that follows, and canaries of encoders."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from encoders.catalog import describe
from encoders.fake import FakeEncoder
from encoders.files import HashCache
from encoders.spec import EncoderSpec
from flows import cli
from flows.doctor import DoctorRequest, doctor
from storage import parquet
from storage.commits import Origins, succeeding
from storage.drafting import drafting
from storage.schemas import DELETES
from storage.snapshot import Snapshot
from tasks import canaries, reader
from tasks.errors import NothingThere

LONG = " ".join(f"word{i}" for i in range(600))


@pytest.fixture
def project(make_project, run_ingest):
    """A project after three ingests: added, edited, deleted, rejected."""
    made = make_project()
    docs = made.root / "docs"
    for name in ("a", "b", "c"):
        (docs / f"{name}.txt").write_text(f"text of {name}")
    (docs / "long.txt").write_text(LONG)
    (docs / "bad.txt").write_bytes(b"\0" * 100)
    run_ingest(made)
    (docs / "b.txt").write_text("text of b, edited")
    (docs / "d.txt").write_text("text of d")
    run_ingest(made)
    (docs / "c.txt").unlink()
    run_ingest(made)
    return made


def held(project):
    """What SQL and search show."""
    with reader.open(project) as lake:
        rows = lake.sql("SELECT item_id, chunk_no, text, vector FROM docs ORDER BY ALL").to_pylist()
        rejects = lake.sql("SELECT uri, reason FROM docs_rejects").to_pylist()
        found = [h.item_id for h in lake.search("docs", "text of a", 2).hits]
    return rows, rejects, found[:1]


def recorded(project, **changes):
    """Commit a version in which the live release is another."""
    with drafting(project.lake / "docs") as draft:
        head = draft.before.head
        releases = (head.live.model_copy(update=changes),)
        record = succeeding(head, verb="test", run_id="run", started_at=datetime.now(UTC))
        draft.publish(record.model_copy(update={"releases": releases}))


def test_an_ingested_lake_is_whole(project):
    """Several versions with edits, deletions and rejects give neither findings nor notices."""
    for deep in (False, True):
        report = doctor(project, DoctorRequest(deep=deep))
        assert report.collections == ("docs",)
        assert (report.findings, report.notices, report.repaired) == ((), (), ())


@pytest.mark.parametrize("kind", ["items", "vectors", "rejects", "deletes"])
def test_after_repair_and_ingest_the_data_is_as_before(kind, project, run_ingest):
    """Going on without a damaged file costs one more ingest, and the versions before."""
    before = held(project)
    file = sorted((project.lake / "docs/data" / kind).rglob("*.parquet"))[0]
    file.write_bytes(file.read_bytes()[:-1])
    [found] = doctor(project, DoctorRequest()).findings
    assert found.path == str(file)
    assert "evervec doctor docs --repair --yes" in found.repair
    dry = doctor(project, DoctorRequest("docs", repair=True, yes=True, dry_run=True))
    assert dry.findings == (found,)
    assert doctor(project, DoctorRequest("docs", repair=True)).findings == (found,)
    report = doctor(project, DoctorRequest("docs", repair=True, yes=True))
    assert not report.findings, report
    assert report.repaired[0].startswith("docs: ")
    run_ingest(project)
    assert not doctor(project, DoctorRequest(deep=True)).findings
    assert held(project) == before


def test_an_unknown_collection_is_refused(project):
    """The message lists those that exist."""
    with pytest.raises(NothingThere, match="there are: docs"):
        doctor(project, DoctorRequest("nope"))


def test_canaries_are_stored_and_found_again(project):
    """What was encoded once is read back with its texts."""
    spec = EncoderSpec(model="fake:16")
    facts = describe(spec, HashCache(None))
    matrix = canaries.make(spec, facts, canaries.names(facts))
    assert matrix.shape == (len(canaries.names(facts)), 16)
    live = Snapshot.open(project.lake / "docs").head.live
    recorded(project, canaries=canaries.noted(project.lake / "docs", live, spec, facts).canaries)
    snapshot = Snapshot.open(project.lake / "docs")
    inputs, vectors = canaries.stored(snapshot, snapshot.head.live)
    assert tuple(inputs) == canaries.names(facts)
    assert np.array_equal(vectors, matrix)
    assert not doctor(project, DoctorRequest()).findings


def test_without_canaries_chunks_stand_in(project):
    """Up to eight encoded chunks of the lake, each with the text that it was made from."""
    snapshot = Snapshot.open(project.lake / "docs")
    release = snapshot.head.live
    bare = release.model_copy(update={"canaries": None})
    inputs, vectors = canaries.stored(snapshot, bare)
    spec = EncoderSpec.model_validate(release.encoder)
    encoder = FakeEncoder(describe(spec, HashCache(None)))
    assert 1 <= len(inputs) <= 8
    assert np.array_equal(encoder.encode(inputs), vectors)


@pytest.mark.parametrize("own", [True, False])
def test_an_encoder_that_gives_other_vectors_is_found(own, project, monkeypatch):
    """Equal files are no proof: the canaries are encoded again and compared."""
    spec = EncoderSpec(model="fake:16")
    if own:
        facts = describe(spec, HashCache(None))
        names = canaries.names(facts)
        matrix = canaries.make(spec, facts, names)
        recorded(project, canaries=canaries.store(project.lake / "docs", names, matrix))
    else:
        recorded(project, canaries=None)
    honest = FakeEncoder._vectors
    monkeypatch.setattr(FakeEncoder, "_vectors", lambda self, p, t: np.roll(honest(self, p, t), 1, axis=1))
    [found] = doctor(project, DoctorRequest()).findings
    assert found.path == "fake:16"
    assert "gives other vectors: cosine" in found.what
    assert "encoder 'enc'" in found.repair


def test_an_encoder_with_other_weights_under_its_name_is_found(project):
    """The fingerprint of the files is not that of the release."""
    recorded(project, fingerprint="0" * 64)
    [found] = doctor(project, DoctorRequest()).findings
    assert "same name, other weights" in found.what
    assert "encoder 'enc'" in found.repair


def test_an_encoder_that_is_not_at_hand_is_a_notice(project):
    """On a machine without the weights the lake can still be examined."""
    gone = {**EncoderSpec(model="fake:16").model_dump(), "model": "./gone"}
    recorded(project, encoder=gone, fingerprint="0" * 64)
    report = doctor(project, DoctorRequest())
    assert not report.findings
    assert [n.path for n in report.notices] == ["./gone"]


def test_items_without_a_vector_get_one_by_the_command_that_the_notice_names(project, capsys):
    """A hole in the live space is no damage, and is filled from the stored texts."""
    before = held(project)
    root = project.lake / "docs"
    with drafting(root) as draft:
        head, space = draft.before.head, draft.before.head.live.space_id
        rows = list(draft.before.positions_of("vectors", pa.array(["long.txt"]), space))
        table = pa.table(
            {"path": [p for p, at in rows for _ in at], "row": [r for _, at in rows for r in at]}
        )
        deletes = parquet.write(root, "data/deletes", table.cast(DELETES))
        record = succeeding(head, verb="test", run_id="run", started_at=datetime.now(UTC))
        spaces = {space: Origins(encoded=head.spaces[space].rows - table.num_rows)}
        draft.publish(record.model_copy(update={"deletes": (deletes,), "spaces": spaces}))
    report = doctor(project, DoctorRequest(repair=True))  # the index has them still
    assert not report.findings
    [notice] = [n for n in report.notices if "without a vector" in n.what]
    assert "'long.txt'" in notice.what
    with pytest.raises(SystemExit) as ended:
        cli.main(["-C", str(project.root), *notice.repair.split()[1:]])
    assert ended.value.code == 0
    assert not [n for n in doctor(project, DoctorRequest()).notices if "without a vector" in n.what]
    assert held(project) == before


def test_findings_end_with_exit_code_5(project, capsys):
    """The command line names file and repair, and is content after it."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(["-C", str(project.root), "doctor", *words])
        return ended.value.code, capsys.readouterr().out

    assert run("--json")[0] == 0
    record = sorted((project.lake / "docs/_commits").iterdir())[-1]
    record.write_bytes(b"")
    code, out = run("docs", "--json")
    [found] = json.loads(out)["findings"]
    assert (code, found["path"], found["repair"]) == (5, str(record), "evervec doctor docs --repair")
    code, out = run("docs")
    assert code == 5
    assert str(record) in out
    assert "evervec doctor docs --repair" in out
    assert run("docs", "--repair")[0] == 0
    assert run("--deep")[0] == 0
