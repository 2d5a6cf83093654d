"""The same project on an object store: every verb, against a real S3 server."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flows.settings import load_project
from storage.locks import lock
from storage.snapshot import Snapshot
from tasks import reader

EVERVEC = str(Path(sys.executable).with_name("evervec"))


@pytest.fixture
def project(tmp_path, s3):
    """A folder of texts whose lake is in a bucket."""
    (tmp_path / "docs").mkdir()
    for name in "abcd":
        (tmp_path / f"docs/{name}.txt").write_text(f"text of {name}")
    (tmp_path / "evervec.yaml").write_text(
        textwrap.dedent(f"""
            lake: {s3}
            encoders: {{enc: {{model: "fake:16"}}}}
            collections:
              docs: {{source: {{kind: files, path: docs}}, encoder: enc, max_deleted: 1.0}}
        """)
    )
    return load_project(tmp_path)


def evervec(project, *words, code=0):
    """Run a command as a user would; its JSON."""
    done = subprocess.run(
        [EVERVEC, "-C", str(project.root), *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_day_on_an_object_store(project):
    """Ingest, edit, delete, search, SQL, the past, maintenance and purge are what they are on a disk."""
    assert evervec(project, "ingest", "docs")["added"] == 4
    assert evervec(project, "ingest", "docs")["encoded"] == 0
    (project.root / "docs/a.txt").write_text("another text")
    (project.root / "docs/b.txt").unlink()
    report = evervec(project, "ingest", "docs")
    assert (report["updated"], report["deleted"], report["version"]) == (1, 1, 2)
    texts = "SELECT item_id, text FROM docs ORDER BY item_id"
    now = [
        {"item_id": "a.txt", "text": "another text"},
        {"item_id": "c.txt", "text": "text of c"},
        {"item_id": "d.txt", "text": "text of d"},
    ]
    assert evervec(project, "sql", texts) == {"rows": now, "version": 2}
    assert len(evervec(project, "sql", texts, "--as-of", "1")["rows"]) == 4
    assert evervec(project, "search", "docs", "another", "--mode", "text")["hits"][0]["item_id"] == "a.txt"
    maintained = evervec(project, "maintain", "docs", "--rebuild-index")
    assert maintained["version"] > 2
    hits = evervec(project, "search", "docs", "text of c", "-k", "3", "--where", "item_id <> 'a.txt'")["hits"]
    assert {h["item_id"] for h in hits} == {"c.txt", "d.txt"}
    evervec(project, "maintain", "docs", "--purge", "--yes")
    assert evervec(project, "sql", texts)["rows"] == now
    assert "purged" in evervec(project, "sql", texts, "--as-of", "1", code=2)["error"]
    assert evervec(project, "ingest", "docs")["unchanged"] == 3


def test_a_writer_waits_for_the_lease_of_another(project, run_ingest):
    """The second writer is refused, naming the first; readers are not."""
    run_ingest(project)
    with lock(project.lake / "docs", "ingest"):
        refused = evervec(project, "ingest", "docs", code=3)
        assert "held by process" in refused["error"]
        with reader.open(project) as lake:
            assert lake.search("docs", "text of a", 1).hits
    assert evervec(project, "ingest", "docs")["unchanged"] == 4


def test_a_torn_record_is_served_from_its_copy(project, run_ingest, caplog):
    """Damage in a bucket is damage like any other."""
    run_ingest(project)
    record = project.lake / "docs" / "_commits" / f"{1:020d}.json"
    record.replace(record.read_bytes()[:-9])
    assert Snapshot.open(project.lake / "docs").version == 1
    assert "second copy" in caplog.text
