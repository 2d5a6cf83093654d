"""What tests share: a project in a temporary folder, and the ingest as a user runs it."""

import os
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.ingest import IngestReport, IngestRequest, ingest
from flows.quiet import quiet_libraries
from flows.settings import load_project
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
def run_ingest() -> Callable[..., IngestReport]:
    """Ingest a collection and return the report."""

    def run(project: Project, collection: str = "docs", **options: object) -> IngestReport:
        return ingest(project, IngestRequest(collection, **options), lambda *_: None)  # type: ignore[arg-type]

    return run
