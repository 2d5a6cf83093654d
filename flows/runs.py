"""How a flow is run from the command line: seen by a Prefect server, or as the plain function it is."""

from flows.ingest import IngestReport, IngestRequest, ingest
from flows.settings import prefect_api_url
from tasks.progress import Progress
from tasks.project import Project


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
