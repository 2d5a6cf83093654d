"""The same floor by Evervec's own code: load the project, pull its source, hash it. Nothing is compared."""

import hashlib
import sys
from pathlib import Path

from flows.quiet import quiet_libraries

quiet_libraries()

from flows.settings import load_project  # noqa: E402 - the quiet comes first, as in the command
from tasks.sources.catalog import open_source  # noqa: E402

project = load_project(Path(sys.argv[1]))
for pulled in open_source(project.collection("docs").source, "text", {}).pull(None):
    for content in pulled.rows["content"].to_pylist():
        hashlib.sha256(content).digest()
