"""How a flow is run from the command line: seen by a Prefect server, or as the plain function it is."""

from typing import TYPE_CHECKING

from flows.ingest import IngestReport, IngestRequest, ingest
from flows.settings import prefect_api_url
from tasks.progress import Progress
from tasks.project import Project

if TYPE_CHECKING:
    from flows.backfill import BackfillReport, BackfillRequest
    from flows.upgrade import UpgradeReport, UpgradeRequest


def run_ingest(project: Project, request: IngestRequest, progress: Progress) -> IngestReport:
    """The ingest as a Prefect run where a server is configured, else as the plain function it is."""
    if prefect_api_url() is None or request.dry_run or request.retry:
        return ingest(project, request, progress)
    from flows import deployed

    return deployed.ingest(
        project=str(project.root),
        collection=request.collection,
        limit=request.limit,
        wait=request.wait,
        yes=request.yes,
    )


def run_upgrade(project: Project, request: "UpgradeRequest", progress: Progress) -> "UpgradeReport":
    """The same for an upgrade."""
    from flows.upgrade import carry_out

    if prefect_api_url() is None or request.dry_run:
        return carry_out(project, request, progress)
    from flows import deployed

    ask, wish, limits = request.ask, request.wish, request.ask.limits
    return deployed.upgrade(
        project=str(project.root),
        collection=request.collection,
        to=ask.to,
        strategy=wish.forced or wish.strategy,
        force=wish.forced is not None,
        promote=request.promote,
        queries=str(ask.queries) if ask.queries else None,
        label=ask.label,
        sample=ask.sample,
        families=ask.families,
        cascade=wish.cascade,
        max_seconds=limits.seconds,
        max_money=limits.money,
        max_query_ms=limits.query_ms,
        rechunk=request.rechunk,
        wait=request.wait,
        yes=wish.yes,
    )


def run_backfill(project: Project, request: "BackfillRequest", progress: Progress) -> "BackfillReport":
    """The same for a backfill."""
    from flows.backfill import fill

    if prefect_api_url() is None or request.dry_run:
        return fill(project, request, progress)
    from flows import deployed

    budget = request.budget
    return deployed.backfill(
        project=str(project.root),
        collection=request.collection,
        rows=budget.rows,
        minutes=None if budget.seconds is None else budget.seconds / 60,
        gpu_hours=None if budget.gpu_seconds is None else budget.gpu_seconds / 3600,
        order=request.order,
        wait=request.wait,
    )
