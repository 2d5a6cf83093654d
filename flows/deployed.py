"""The same flows as Prefect runs: the only file that imports Prefect.

Bodies and steps are the plain functions of `flows/<verb>.py` and `tasks/steps.py`; here they get
names, retries, run pages and artifacts. Deployments name `flows.deployed.nightly_ingest`.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import yaml
from prefect import flow, get_client, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from flows.backfill import BackfillReport, BackfillRequest, fill
from flows.ingest import IngestReport, IngestRequest, PlainSteps
from flows.ingest import ingest as ingest_body
from flows.maintain import MaintainReport, MaintainRequest
from flows.maintain import maintain as maintain_body
from flows.quiet import quiet_libraries
from flows.settings import load_project
from flows.upgrade import Promote, UpgradeReport, UpgradeRequest, carry_out
from tasks import upkeep
from tasks.backfill import Budget
from tasks.decision import Wish
from tasks.gate import QUERY_MS, Limits
from tasks.probe import CASCADES, SAMPLE, ProbeAsk

P = ParamSpec("P")
R = TypeVar("R")

DEPLOYMENTS = Path(__file__).resolve().parent.parent / "deployments" / "prefect.yaml"
_RETRIED = {"pull_and_diff"}
_PROGRESS_SECONDS = 10.0


class PrefectSteps(PlainSteps):
    """Calls each step as a Prefect task, visible in its run.

    Only the pull is retried: a source can be away for a moment, while a failed commit must be looked
    at, and a rerun of the flow goes on from the last window anyway.
    """

    def __call__(self, step: Callable[P, R]) -> Callable[P, R]:
        name = step.__name__
        as_task = task(
            name=name.replace("_", " "),
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2 if name in _RETRIED else 0,
            retry_delay_seconds=20,
            retry_condition_fn=_is_transient,
        )
        return as_task(step)


def _is_transient(task: Any, run: Any, state: Any) -> bool:
    """Whether trying again can help: our own errors are decisions or configuration, they stay as they are."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError | TimeoutError) and not hasattr(error, "exit_code")


@flow(name="ingest", flow_run_name="ingest-{collection}", persist_result=False)
def ingest(
    project: str, collection: str, limit: int | None = None, wait: float = 0.0, yes: bool = False
) -> IngestReport:
    """Bring one collection up to date with its source: pull, diff, encode, commit.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection in that file.
        limit: Pull at most this many items; nothing is deleted then.
        wait: Seconds to wait for another writer of the collection.
        yes: Delete even if much or all of the collection would go.
    """
    quiet_libraries()
    request = IngestRequest(collection, limit, wait, yes)
    report = ingest_body(load_project(Path(project)), request, _LoggedProgress(), PrefectSteps())
    counts = (
        "version",
        "seen",
        "added",
        "updated",
        "deleted",
        "unchanged",
        "rejected",
        "encoded",
        "chunks",
        "seconds",
    )
    create_table_artifact(
        key=f"ingest-{collection.replace('_', '-')}",
        table=[{name: getattr(report, name) for name in counts}],
        description=f"Collection `{collection}`, run {report.run_id}, space {report.space_id}",
    )
    return report


@flow(name="nightly-ingest", persist_result=False)
def nightly_ingest(project: str, collection: str | None = None, wait: float = 3600.0) -> None:
    """Bring a collection, or all of a project one after the other, up to date.

    A collection that fails does not keep the others waiting; the run fails at the end and names it.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection; left out, every collection of the project.
        wait: Seconds to wait for another writer of a collection.
    """
    loaded = load_project(Path(project))
    pulled = [name for name, settings in loaded.collections.items() if settings.source is not None]
    names = [collection] if collection else pulled
    _each(names, lambda name: ingest(project=project, collection=name, wait=wait).version)


@flow(name="maintain", flow_run_name="maintain-{collection}", persist_result=False)
def maintain(project: str, collection: str, rebuild_index: bool = False, wait: float = 0.0) -> MaintainReport:
    """Compact one collection, let go what is not retained, and sweep. It purges nothing.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection in that file.
        rebuild_index: Make the indexes anew from Parquet.
        wait: Seconds to wait for another maintenance of the collection.
    """
    quiet_libraries()
    request = MaintainRequest(collection, rebuild_index=rebuild_index, wait=wait)
    report = maintain_body(load_project(Path(project)), request, PrefectSteps())
    sizes = ("version", "readable_from", "bytes_before", "bytes_after", "files_before", "files_after")
    create_table_artifact(
        key=f"maintain-{collection.replace('_', '-')}",
        table=[{name: getattr(report, name) for name in sizes}],
        description=f"Collection `{collection}`: {'; '.join(report.done) or 'nothing to do'}",
    )
    return report


@flow(name="upgrade", flow_run_name="upgrade-{collection}", persist_result=False)
def upgrade(
    project: str,
    collection: str,
    to: str,
    strategy: Literal["auto", "reuse", "bridge", "map", "reencode"] = "auto",
    force: bool = False,
    promote: Promote = "if_verdict",
    queries: str | None = None,
    label: str | None = None,
    sample: int = SAMPLE,
    families: Literal["all", "linear"] = "all",
    cascade: int | None = None,
    max_seconds: float | None = None,
    max_money: float | None = None,
    max_query_ms: float = QUERY_MS,
    rechunk: bool = False,
    wait: float = 3600.0,
    yes: bool = False,
) -> UpgradeReport:
    """Change the encoder of one collection: measure, gate, build beside the live release, verify, switch.

    A run that was killed is gone on with by starting another with the same parameters.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection in that file.
        to: Name of the encoder in that file to upgrade to.
        strategy: One that must pass the gate; auto: the verdict of the measurement.
        force: Carry `strategy` out whatever was measured (needs `yes`).
        promote: auto makes what was built and verified live, if_verdict only if it was not forced, never not.
        queries: File of judged queries, as the worker sees it.
        label: SQL expression over the items; those of one label belong together.
        sample: Items to measure with.
        families: Bases to try.
        cascade: Measure with cascades of this many candidates only.
        max_seconds: Longest time that building may take.
        max_money: Highest price, by the collection's price_per_hour.
        max_query_ms: Milliseconds that may be added to a query.
        rechunk: With reencode, cut the items anew.
        wait: Seconds to wait for another upgrade, and at the end for an ingest.
        yes: Encode everything anew if that is the verdict; force.
    """
    quiet_libraries()
    loaded = load_project(Path(project))
    least = loaded.collection(collection).min_gap_closed
    ask = ProbeAsk(
        to=to,
        sample=sample,
        queries=Path(queries) if queries else None,
        label=label,
        families=families,
        cascades=CASCADES if cascade is None else (cascade,) * bool(cascade),
        limits=Limits(max_seconds, max_money, max_query_ms, least),
    )
    chosen = None if strategy == "auto" or not force else strategy
    wish = Wish("auto" if chosen else strategy, chosen, cascade, yes)
    request = UpgradeRequest(collection, ask, wish, rechunk, promote, wait)
    report = carry_out(loaded, request, _LoggedProgress(), PrefectSteps())
    create_table_artifact(
        key=f"upgrade-{collection.replace('_', '-')}",
        table=[asdict(report)],
        description=f"Collection `{collection}`: {report.verdict}: {report.reason}. Report: {report.report}",
    )
    return report


@flow(name="backfill", flow_run_name="backfill-{collection}", persist_result=False)
def backfill(
    project: str,
    collection: str,
    rows: int | None = None,
    minutes: float | None = None,
    gpu_hours: float | None = None,
    order: str = "asked",
    wait: float = 3600.0,
) -> BackfillReport:
    """Encode rows of one collection that are still mapped, the most valuable first, within a budget.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection in that file.
        rows: Rows to encode at most.
        minutes: Minutes to take at most.
        gpu_hours: GPU-hours to take at most.
        order: asked, residual, newest, random, or sql:EXPRESSION over the collection.
        wait: Seconds to wait for another upgrade or backfill of the collection.
    """
    quiet_libraries()
    seconds = None if minutes is None else 60 * minutes
    budget = Budget(rows, seconds, None if gpu_hours is None else 3600 * gpu_hours)
    request = BackfillRequest(collection, budget, order, wait)
    report = fill(load_project(Path(project)), request, _LoggedProgress(), PrefectSteps())
    create_table_artifact(
        key=f"backfill-{collection.replace('_', '-')}",
        table=[asdict(report)],
        description=f"Collection `{collection}`: {report.coverage_after:.1%} of the rows encoded natively",
    )
    return report


@flow(name="weekly-maintenance", persist_result=False)
def weekly_maintenance(project: str, collection: str | None = None, wait: float = 3600.0) -> None:
    """Maintain a collection, or all of a project that hold anything, one after the other.

    A collection that fails does not keep the others waiting; the run fails at the end and names it.

    Args:
        project: Folder with the evervec.yaml, as the worker sees it.
        collection: Name of a collection; left out, every collection of the project.
        wait: Seconds to wait for another maintenance of a collection.
    """
    loaded = load_project(Path(project))
    names = [collection] if collection else upkeep.not_empty(loaded)
    _each(names, lambda name: maintain(project=project, collection=name, wait=wait).version)


def _each(names: list[str], run: Callable[[str], int]) -> None:
    """Run for every collection; those that fail are named in one error after all had their turn."""
    logger = get_run_logger()
    failed = {}
    for name in names:
        try:
            version = run(name)
        except Exception as error:  # noqa: BLE001 - told below, after the others had their turn
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            logger.info("%s is at version %s", name, version)
    if failed:
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise RuntimeError(f"{len(failed)} of {len(names)} collections failed: {told}")


class DeploymentTaken(Exception):
    """The server's deployment of that name is of another project, whose nightly run would end."""

    exit_code = 3


def deploy(project: Path, *, dry_run: bool = False, yes: bool = False) -> list[str]:
    """Register every deployment of `deployments/prefect.yaml` for this project; their names.

    Makes the work pool if the server has none of that name. A second time updates what is there;
    `DeploymentTaken` if it is another project's, unless `yes`.
    """
    declared = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))["deployments"]
    names = [d["name"] for d in declared]
    if dry_run:
        return names
    for pool in {d["work_pool"]["name"] for d in declared}:
        _require_pool(pool)
    if not yes:
        for name in names:
            _require_free(name, project)
    for entry in declared:
        flows = (nightly_ingest, weekly_maintenance, upgrade, backfill)
        bound = {flow.name: flow for flow in flows}[entry["name"]]
        deployment = RunnerDeployment.from_flow(
            bound,
            name=entry["name"],
            parameters={**entry["parameters"], "project": str(project)},
            schedules=[Cron(s["cron"], timezone=s.get("timezone")) for s in entry.get("schedules", ())],
            description=entry["description"],
            tags=entry["tags"],
            work_pool_name=entry["work_pool"]["name"],
            concurrency_limit=entry["concurrency_limit"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        deployment.apply()
    return names


def _require_free(name: str, project: Path) -> None:
    with get_client(sync_client=True) as client:
        try:
            other = client.read_deployment_by_name(f"{name}/{name}").parameters.get("project")
        except ObjectNotFound:
            return
    if other != str(project):
        raise DeploymentTaken(
            f"{name!r} on this server runs project {other}, which would not be run any more. Use a server "
            "of its own for this project, or take it over with --yes"
        )


def _require_pool(name: str) -> None:
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:
            return


class _LoggedProgress:
    """Progress as lines of the run's log, at most one every 10 s."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, done: int, total: int, durable: int, what: str = "items") -> None:
        import time

        now = time.monotonic()
        if total and (durable == total or now - self._last >= _PROGRESS_SECONDS):
            get_run_logger().info("%s of %s %s done, %s durable", done, total, what, durable)
            self._last = now
