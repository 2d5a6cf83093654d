"""A collection that was ingested once, and is copied for every test that changes it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from encoders.basis import residual
from flows.ingest import IngestRequest, ingest
from flows.settings import load_project
from tasks.progress import quietly
from tasks.project import Project
from tests.tasks import drifted


@pytest.fixture(scope="session", autouse=True)
def _few_pairs_tell_errors() -> Iterator[None]:
    """So few pairs as there are here would get one predicted error all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(residual, "_FEW", 8)
        yield


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose 120 texts are encoded by `old`."""
    project = drifted.project_in(tmp_path_factory.mktemp("ingested"), drifted.texts(120))
    ingest(project, IngestRequest("docs"), quietly)
    return project.root


@pytest.fixture(scope="session")
def carried(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same after an upgrade (`map` or `bridge`) to `watched`, made once of each."""
    made: dict[str, Path] = {}

    def of(strategy: str) -> Path:
        if strategy not in made:
            folder = tmp_path_factory.mktemp(strategy) / "project"
            shutil.copytree(ingested, folder)
            drifted.build(load_project(folder), strategy, to="watched", cascade=20)
            made[strategy] = folder
        return made[strategy]

    return of


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Project]:
    """A project of one's own like that in a folder."""

    def of(folder: Path) -> Project:
        shutil.copytree(folder, tmp_path / "copy")
        return load_project(tmp_path / "copy")

    return of


@pytest.fixture
def docs(ingested: Path, copied: Callable[[Path], Project]) -> Project:
    """A project whose collection is encoded by `old`."""
    return copied(ingested)
