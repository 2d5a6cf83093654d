"""What tests share: a project in a temporary folder, and the ingest as a user runs it."""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from flows.ingest import IngestReport, IngestRequest, ingest
from flows.quiet import quiet_libraries
from flows.settings import load_project
from storage.remote import Remote
from storage.snapshot import Snapshot
from tasks.project import Project


def pytest_configure() -> None:
    """Keep what Prefect would write into the home folder of who runs the tests out of it."""
    os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="evervec-tests-"))


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    quiet_libraries()


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests must not find a server, a cluster or a lake of the person who runs them."""
    for name in ("PREFECT_API_URL", "RAY_ADDRESS", "EVERVEC_LAKE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def joint_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small CLIP that knows colours and shapes; trained at the first use, in seconds."""
    from tests.encoders.joint import write_joint

    return write_joint(tmp_path_factory.mktemp("joint"))


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """Write an evervec.yaml (by default one collection `docs` of text files) and load it."""

    def make(yaml: str = "", *, model: str = "fake:16", folder: Path = tmp_path) -> Project:
        default = f"""
            lake: ./lake
            encoders: {{enc: {{model: "{model}"}}}}
            collections:
              docs: {{source: {{kind: files, path: docs}}, encoder: enc, max_deleted: 1.0}}
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "docs").mkdir(exist_ok=True)
        (folder / "evervec.yaml").write_text(textwrap.dedent(yaml or default))
        return load_project(folder)

    return make


@pytest.fixture
def index_of() -> Callable[..., pa.Table]:
    """All rows of the index that the head of a collection names, vectors and all."""

    def rows(project: Project, collection: str = "docs") -> pa.Table:
        from storage.vectors import Index  # lancedb: only those tests that look should pay for it

        head = Snapshot.open(project.lake / collection).head
        assert head is not None
        return Index(project.lake, head.index.table).open_at(head.index).table.to_arrow()

    return rows


@pytest.fixture
def run_ingest() -> Callable[..., IngestReport]:
    """Ingest a collection and return the report."""

    def run(project: Project, collection: str = "docs", **options: object) -> IngestReport:
        return ingest(project, IngestRequest(collection, **options), lambda *_: None)  # type: ignore[arg-type]

    return run


def _asked(port: int, method: str, path: str) -> int:
    """One request to a server on this machine: the status of its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """A running S3 server: its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                _asked(port, "GET", "/")
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An empty lake in a bucket of its own, with the environment that leads there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-key-that-nobody-may-see")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = f"test-{uuid.uuid4().hex}"
    assert _asked(s3_port, "PUT", f"/{bucket}") == 200
    return Remote(bucket, "lake")
