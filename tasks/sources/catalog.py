"""From the settings of a source to the source. The one place that knows which kinds there are."""

import pyarrow as pa

from tasks.project import DocstringsSource, FilesSource, TableSource
from tasks.sources.docstrings import Docstrings
from tasks.sources.files import Files
from tasks.sources.protocol import Source
from tasks.sources.tables import Table


def open_source(
    spec: FilesSource | TableSource | DocstringsSource, attributes: dict[str, pa.DataType]
) -> Source:
    """The source of a collection. `attributes` are the types that its stored attributes have."""
    match spec:
        case FilesSource():
            return Files(spec)
        case TableSource():
            return Table(spec, attributes)
        case DocstringsSource():
            return Docstrings(spec)
