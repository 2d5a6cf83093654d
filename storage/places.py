"""Where a lake lies: a local folder or a prefix of an object store, and the few things done to files there.

A place is a `pathlib.Path` or a `storage.remote.Remote`; both know `/`, `name` and `parent`. Everything
else that touches bytes goes through the functions below, which promise the same for both: what they
have written is durable when they return, but for `spool`.
"""

import contextlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.remote import Remote
from storage.sinks import Sink

Place = Path | Remote

TEMPORARY = re.compile(r"(.*/)?\.[0-9a-f]{32}\.tmp")
"""Paths that a file has until it is whole; one that was left is of a writer that died."""


@dataclass(frozen=True)
class Entry:
    """One file below a folder: `path` relative to it, with slashes."""

    path: str
    bytes: int
    modified: datetime


def parse(text: str) -> Place:
    """The place that a text names: `s3://bucket/prefix`, or a path."""
    return Remote.parse(text) if text.startswith("s3://") else Path(text)


def names(folder: Place) -> list[str]:
    """Names of the files directly in a folder, in no order; none if it is not there."""
    if isinstance(folder, Remote):
        return folder.names()
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if entry.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def walk(folder: Place) -> Iterator[Entry]:
    """Every file below a folder; one that vanishes meanwhile is left out."""
    if isinstance(folder, Remote):
        yield from (Entry(*facts) for facts in folder.walk())
        return
    start = len(str(folder)) + 1
    for directory, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(directory, name)  # a log of 10,000 versions has 30,000 files
            try:
                facts = os.stat(path)
            except FileNotFoundError:
                continue
            yield Entry(path[start:], facts.st_size, datetime.fromtimestamp(facts.st_mtime, UTC))


def exists(place: Place) -> bool:
    """Whether there is such a file (or, locally, such a folder)."""
    return place.exists()


def read(file: Place) -> bytes:
    """The bytes of a file. Raises `FileNotFoundError`."""
    return file.read_bytes()


def create(file: Place, data: bytes) -> None:
    """Write a new file, whole and durable, or raise `FileExistsError` and leave the other as it is.

    Of several who try at once exactly one succeeds. A put to an object store whose answer was lost is
    recognised as one's own by its content, so `data` must hold something that no other writer has.
    """
    if isinstance(file, Remote):
        file.create(data)
        return
    make_directory(file.parent)
    temporary = _written(file, data)
    try:
        os.link(temporary, file)
    finally:
        temporary.unlink()
    fsync_directory(file.parent)


def replace(file: Place, data: bytes) -> None:
    """Write a file whole and durable, in place of any that was there."""
    if isinstance(file, Remote):
        file.replace(data)
        return
    make_directory(file.parent)
    os.replace(_written(file, data), file)
    fsync_directory(file.parent)


def spool(file: Place, data: bytes) -> None:
    """Write a file whole, but not durable: after a power cut it may be gone, or torn."""
    if isinstance(file, Remote):
        file.replace(data)
        return
    make_directory(file.parent)
    os.replace(_written(file, data, synced=False), file)


def _written(file: Path, data: bytes, *, synced: bool = True) -> Path:
    temporary = file.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as opened:
            opened.write(data)
            opened.flush()
            if synced:
                os.fsync(opened.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def remove(file: Place) -> None:
    """Remove a file, if it is there."""
    if isinstance(file, Remote):
        file.remove()
    else:
        file.unlink(missing_ok=True)


def remove_tree(folder: Place) -> None:
    """Remove a folder and all in it, if it is there."""
    if isinstance(folder, Remote):
        folder.remove_tree()
    elif folder.exists():
        shutil.rmtree(folder)


def source(file: Place) -> Any:
    """What pyarrow reads a Parquet file from: a path, or a file object with random access.

    Raises `FileNotFoundError` if it is not there.
    """
    return file.open_input() if isinstance(file, Remote) else file


def opened(file: Place) -> io.BufferedIOBase:
    """A file to read from its beginning. Raises `FileNotFoundError`."""
    return io.BytesIO(file.read_bytes()) if isinstance(file, Remote) else file.open("rb")


def sink(file: Place) -> Sink:
    """A new file to be written piece by piece."""
    if isinstance(file, Remote):
        return file.sink()
    make_directory(file.parent)
    return _LocalSink(file)


def make_directory(directory: Path) -> None:
    """Make a directory and its missing parents, each durable in its own parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    fsync_directory(directory.parent)


def settle(root: Path, files: Iterable[str]) -> None:
    """Make the folders of `files`, relative to `root`, durable, up to the one that the lake lies in.

    A writer that died may have made one of them and not have got so far as to make it durable.
    """
    folders = {root, root.parent, root.parent.parent}
    for file in files:
        folders.update(folder for folder in (root / file).parents if folder.is_relative_to(root))
    for folder in folders:
        with contextlib.suppress(PermissionError):  # what the lake lies in may be closed to us
            fsync_directory(folder)


def fsync_directory(directory: Path) -> None:
    """Make the entries of a directory durable: without it a new file's name can be lost with the power."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _LocalSink(Sink):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = path.open("xb")

    def _put(self, data: bytes) -> None:
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def _complete(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        fsync_directory(self._path.parent)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk closing fails, too: it writes what is left
            self._file.close()
        self._path.unlink(missing_ok=True)
