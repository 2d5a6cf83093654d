"""A real Prefect server and a real worker: what is deployed is picked up and leaves a version in the lake."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.snapshot import Snapshot
from tasks import reader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

BIN = Path(sys.executable).parent
PATIENCE = 180


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come within {PATIENCE} s")


class Server:
    """The API of a server process."""

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url, self.environment = url, environment

    def post(self, path: str, body: dict | None = None):
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def get(self, path: str):
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=30) as answer:
            return json.load(answer)

    def healthy(self) -> bool:
        try:
            return self.get("health") is True
        except OSError:
            return False

    def evervec(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "evervec"), *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)

    def flow_run(self, run_id: str):
        return self.get(f"flow_runs/{run_id}")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """`prefect server start` on a free port, with a home of its own."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = (home / "server.log").open("w")
    command = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    made = Server(url, environment)
    try:
        wait_for(made.healthy, "the server")
        yield made
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory) -> Iterator[None]:
    """`prefect worker start` on the pool that `evervec deploy` makes."""
    log = (tmp_path_factory.mktemp("worker") / "worker.log").open("w")
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "evervec", "--type", "process"]
    process = subprocess.Popen(command, env=server.environment, stdout=log, stderr=log)
    yield
    process.terminate()
    process.wait(timeout=60)
    log.close()


EVERY = ["nightly-ingest", "weekly-maintenance", "upgrade", "backfill"]


def ended(server: Server, run_id: str):
    run = server.flow_run(run_id)
    return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def test_a_deployed_nightly_run_is_picked_up_by_a_worker_and_leaves_a_version(server, worker, make_project):
    """deploy, start by API, worker, lake, artifact: the whole way of a nightly run."""
    project = make_project()
    (project.root / "docs/a.txt").write_text("one")
    (project.root / "docs/b.txt").write_text("two")
    for _ in range(2):  # a second deploy updates the first
        done = server.evervec("-C", project.root, "deploy", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"deployments": EVERY}
    deployments = {d["name"]: d for d in server.post("deployments/filter")}
    assert set(deployments) == set(EVERY)
    deployment = deployments["nightly-ingest"]
    assert deployment["entrypoint"] == "flows.deployed.nightly_ingest"
    assert deployment["parameters"]["project"] == str(project.root)
    assert [s["schedule"]["cron"] for s in deployment["schedules"]] == ["0 2 * * *"]

    other = make_project(folder=project.root / "other")
    taken = server.evervec("-C", other.root, "deploy")  # would end the nightly runs of the first project
    assert taken.returncode == 3, taken.stderr
    assert f"runs project {project.root}" in taken.stderr

    run = server.post(f"deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    finished = wait_for(lambda: ended(server, run["id"]), "the run")
    assert finished["state_type"] == "COMPLETED"
    head = Snapshot.open(project.lake / "docs").head
    assert head is not None
    assert (head.number, head.counts.added) == (1, 2)
    artifacts = server.post("artifacts/filter")
    table = next(json.loads(a["data"]) for a in artifacts if a["key"] == "ingest-docs")
    assert (table[0]["added"], table[0]["version"]) == (2, 1)
    tasks = {t["name"].rpartition("-")[0] for t in server.post("task_runs/filter")}
    assert {"check", "pull and diff", "encode and commit"} <= tasks

    (project.root / "docs/c.txt").write_text("three")
    assert server.evervec("-C", project.root, "ingest", "docs").returncode == 0
    weekly = f"deployments/{deployments['weekly-maintenance']['id']}/create_flow_run"
    run = server.post(weekly, {"state": {"type": "SCHEDULED"}})
    assert wait_for(lambda: ended(server, run["id"]), "the run")["state_type"] == "COMPLETED"
    head = Snapshot.open(project.lake / "docs").head
    assert head is not None
    assert (head.verb, head.total_items) == ("maintain", 3)
    artifacts = server.post("artifacts/filter")
    table = next(json.loads(a["data"]) for a in artifacts if a["key"] == "maintain-docs")
    assert table[0]["version"] == head.number


def test_the_command_line_makes_a_visible_run_where_a_server_is_configured(server, make_project):
    """With PREFECT_API_URL the same command is a Prefect run, with the same report and exit codes."""
    project = make_project()
    (project.root / "docs/a.txt").write_text("one")
    done = server.evervec("-C", project.root, "ingest", "docs", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["added"] == 1
    with reader.open(project) as lake:
        assert lake.search("docs", "one", 1).hits[0].item_id == "a.txt"
    runs = server.post("flow_runs/filter", {"flow_runs": {"name": {"any_": ["ingest-docs"]}}})
    mine = [r for r in runs if r["parameters"]["project"] == str(project.root)]
    assert [r["state_type"] for r in mine] == ["COMPLETED"]
    assert "one" not in json.dumps(mine[0]["parameters"])

    (project.root / "docs/a.txt").unlink()
    refused = server.evervec("-C", project.root, "ingest", "docs")
    assert refused.returncode == 3, refused.stderr
    assert "--yes" in refused.stderr
    runs = server.post("flow_runs/filter", {"flow_runs": {"name": {"any_": ["ingest-docs"]}}})
    states = sorted(r["state_type"] for r in runs if r["parameters"]["project"] == str(project.root))
    assert states == ["COMPLETED", "FAILED"]
