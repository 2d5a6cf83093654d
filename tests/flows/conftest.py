"""Collections before and after an upgrade, each made once: look at them, and change copies."""

import pytest

from tests.flows.topics import ASK, PLAIN, WAYS, Desk


@pytest.fixture(scope="session")
def _alone():
    """What is made once for all tests must not find a lake or a server of who runs them either."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("PREFECT_API_URL", "RAY_ADDRESS", "EVERVEC_LAKE"):
            patched.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def before(_alone, tmp_path_factory):
    """A project with 240 ingested texts, and what was measured of the way to another encoder."""
    desk = Desk.made(tmp_path_factory.mktemp("before"))
    assert desk.evervec("ingest", "docs")["added"] == 240
    desk.evervec("probe", "docs", *ASK)
    desk.evervec("probe", "docs", *PLAIN)
    return desk


@pytest.fixture(scope="session")
def after(before, tmp_path_factory):
    """The same after an upgrade one of the ways, with the report of it."""
    made = {}

    def find(way):
        if way not in made:
            desk = before.copied(tmp_path_factory.mktemp("after"))
            made[way] = desk, desk.evervec("upgrade", "docs", *WAYS[way])
        return made[way]

    return find
