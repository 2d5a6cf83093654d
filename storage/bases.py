"""The files of bases: maps between spaces, as whoever fits them writes them. Storage never looks inside."""

import hashlib
import re

from storage import places
from storage.commits import BasisFile
from storage.errors import Damaged
from storage.parquet import DataFile
from storage.places import Place
from storage.snapshot import Snapshot

BASIS_FILE = re.compile(r"bases/[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors")
"""Paths, relative to a collection, that this module gives."""


def write(root: Place, basis_id: str, content: bytes) -> DataFile:
    """Write a basis below the collection in `root`; durable on return.

    `basis_id` must identify the map: a file that a release names by that id is left as it is and given
    back, also if `content` is other bytes for the same map. Raises `ValueError` for an id that is no name.
    """
    path = f"bases/{basis_id}.safetensors"
    if not BASIS_FILE.fullmatch(path):
        raise ValueError(f"{basis_id!r} is no name for a file; use letters, digits, `_`, `-` and `.`")
    head = Snapshot.open(root).head
    named = [r.basis.file for r in (head.releases if head else ()) if r.basis]
    known = next((file for file in named if file.path == path), None)
    file = DataFile(path=path, rows=0, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    if known is not None and known != file and places.exists(root / path):
        return known
    # also over the same bytes: a file that a dead run left long ago must not look old to the next sweep
    places.replace(root / path, content)
    return file


def read(root: Place, basis: BasisFile) -> bytes:
    """The content of a basis file. Raises `Damaged` unless it is what the record says."""
    path = root / basis.file.path
    try:
        content = places.read(path)
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror or error})", _RESTORE) from error
    if len(content) != basis.file.bytes:
        raise Damaged(path, f"has {len(content):,} bytes, the log says {basis.file.bytes:,}", _RESTORE)
    if hashlib.sha256(content).hexdigest() != basis.file.sha256:
        raise Damaged(path, "is not the file that was committed: its SHA-256 differs", _RESTORE)
    return content


_RESTORE = "see `evervec doctor`, or restore this file from a backup"
