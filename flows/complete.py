"""complete: give every item a vector in the space of a release, before it is made live."""

import tempfile
import uuid
from pathlib import Path

from storage.locks import lock
from tasks.complete import complete as encode_missing
from tasks.progress import Landed, Progress
from tasks.project import Project


def complete(
    project: Project, collection: str, release: int, progress: Progress, *, wait: float = 0.0
) -> Landed:
    """Encode what the space of a release lacks. Raises an error of `tasks`, `encoders` or `storage`."""
    with (
        tempfile.TemporaryDirectory(prefix="evervec-") as folder,
        lock(project.lake / collection, "ingest", wait=wait) as lease,
    ):
        return encode_missing(
            project, collection, release, Path(folder), uuid.uuid4().hex[:12], lease, progress, retry=True
        )
