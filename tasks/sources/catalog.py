"""From the settings of a source to the source. The one place that knows which kinds there are."""

import pyarrow as pa

from tasks.project import DocstringsSource, FilesSource, TableSource
from tasks.sources.protocol import Source


def open_source(
    spec: FilesSource | TableSource | DocstringsSource, attributes: dict[str, pa.DataType]
) -> Source:
    """The source of a collection. `attributes` are the types that its stored attributes have."""
    match spec:  # each imports what its kind alone needs
        case FilesSource():
            from tasks.sources.files import Files

            return Files(spec)
        case TableSource():
            from tasks.sources.tables import Table

            return Table(spec, attributes)
        case DocstringsSource():
            from tasks.sources.docstrings import Docstrings

            return Docstrings(spec)
