"""From the settings of a source to the source. The one place that knows which kinds there are."""

import pyarrow as pa

from encoders.spec import Modality
from tasks.project import DocstringsSource, FilesSource, TableSource
from tasks.sources.protocol import Source


def cells_of(spec: FilesSource | TableSource | DocstringsSource | None) -> str | None:
    """The column of a table that holds media themselves, not the names of their files."""
    if not isinstance(spec, TableSource) or spec.media is None:
        return None
    from storage.tables import is_binary

    return spec.media if is_binary(spec.path, spec.media) else None


def open_source(
    spec: FilesSource | TableSource | DocstringsSource, modality: Modality, attributes: dict[str, pa.DataType]
) -> Source:
    """The source of a collection. `attributes` are the types that its stored attributes have."""
    match spec:  # each imports what its kind alone needs
        case FilesSource():
            from tasks.sources.files import Files

            return Files(spec, modality)
        case TableSource() if modality != "text":
            from tasks.sources.media_tables import MediaTable

            return MediaTable(spec, attributes)
        case TableSource():
            from tasks.sources.tables import Table

            return Table(spec, spec.text or "", attributes)
        case DocstringsSource():
            from tasks.sources.docstrings import Docstrings

            return Docstrings(spec)
