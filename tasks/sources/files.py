"""Files below a folder: texts with their content, images and audio by their hash."""

import os
from collections.abc import Callable, Iterator
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pathspec
import pyarrow as pa

from encoders.decode import MAX_TEXT_BYTES
from encoders.spec import Modality
from storage import arrays
from tasks.errors import SourceUnusable
from tasks.project import INCLUDED, FilesSource
from tasks.sources.hashing import MEDIA_AT_ONCE, digest, hashing
from tasks.sources.protocol import (
    BATCH_BYTES,
    BATCH_ITEMS,
    Digest,
    MediaRow,
    Pulled,
    PullReject,
    media_table,
    rows_table,
)

_Read = TypeVar("_Read")


class Files:
    """Lists the folder in name order; reads each file once.

    Links to files that lie outside are rejected; links to folders are not followed. Of images and audio
    only a piece is held at a time.
    """

    encoding: str | None = None

    def __init__(self, spec: FilesSource, modality: Modality) -> None:
        self._root = spec.path
        self._modality = modality
        include = spec.include if spec.include is not None else _both_cases(INCLUDED[modality])
        self._include = pathspec.GitIgnoreSpec.from_lines(include)
        self._exclude = pathspec.GitIgnoreSpec.from_lines(spec.exclude)
        self.where = str(spec.path)

    def pull(self, since: str | None) -> Iterator[Pulled]:
        if not self._root.is_dir():
            what = "is a file" if self._root.exists() else "does not exist"
            raise SourceUnusable(
                f"source.path {self._root} {what}; expected a folder of {self._modality} files. "
                "Correct `path:` in evervec.yaml, or create the folder"
            )
        yield from self._texts() if self._modality == "text" else self._media()

    def _texts(self) -> Iterator[Pulled]:
        ids: list[str] = []
        uris: list[str] = []
        contents: list[bytes] = []
        rejects: list[PullReject] = []
        size = count = 0
        for path in self._listed(rejects):
            item_id = _as_text(path.relative_to(self._root).as_posix())
            content = self._opened(path, item_id, rejects, _first_bytes)
            if content is None:
                continue
            ids.append(item_id)
            uris.append(_as_text(str(path)))
            contents.append(content)
            size += len(content)
            if len(ids) >= BATCH_ITEMS or size >= BATCH_BYTES:
                yield self._batch(ids, uris, contents, rejects, count)
                count += len(ids)
                ids, uris, contents, rejects, size = [], [], [], [], 0
        yield self._batch(ids, uris, contents, rejects, count, complete=True)

    def _media(self) -> Iterator[Pulled]:
        rejects: list[PullReject] = []
        first = 1
        with hashing() as pool:
            for paths in _in_batches(self._listed(rejects)):
                item_ids = [_as_text(path.relative_to(self._root).as_posix()) for path in paths]
                facts = list(pool.map(lambda p, i: self._digested(p, i, rejects), paths, item_ids))
                rows = [
                    MediaRow(i, _as_text(str(p)), f)
                    for i, p, f in zip(item_ids, paths, facts, strict=True)
                    if f
                ]
                positions = arrays.from_numpy(np.arange(first, first + len(rows)), pa.int64())
                first += len(rows)
                yield Pulled(media_table(rows, positions, None), tuple(rejects))
                rejects.clear()
        nothing = media_table([], arrays.empty(pa.int64()), None)
        yield Pulled(nothing, tuple(rejects), complete=True)

    def _digested(self, path: Path, item_id: str, rejects: list[PullReject]) -> Digest | None:
        if _as_text(str(path)) != str(path):
            reason = "its name is not UTF-8, so that nothing could find it again; rename the file"
            rejects.append(PullReject(item_id, _as_text(str(path)), reason, "UnicodeEncodeError"))
            return None
        return self._opened(path, item_id, rejects, digest)

    @staticmethod
    def _batch(
        ids: list[str],
        uris: list[str],
        contents: list[bytes],
        rejects: list[PullReject],
        first: int,
        *,
        complete: bool = False,
    ) -> Pulled:
        positions = arrays.from_numpy(np.arange(first + 1, first + 1 + len(ids)), pa.int64())
        columns = arrays.strings(ids), arrays.strings(uris), arrays.binaries(contents)
        rows = rows_table(*columns, positions, None)
        return Pulled(rows, tuple(rejects), complete=complete)

    def _listed(self, rejects: list[PullReject]) -> Iterator[Path]:
        def unlistable(error: OSError) -> None:
            folder = str(error.filename)
            reason = f"this folder cannot be listed ({error.strerror}); its files are unknown"
            rejects.append(PullReject(None, _as_text(folder), reason, type(error).__name__))

        for folder, subfolders, names in os.walk(self._root, onerror=unlistable):
            subfolders[:] = sorted(f for f in subfolders if f != ".evervec")
            for name in sorted(names):
                path = Path(folder, name)
                relative = path.relative_to(self._root).as_posix()
                if self._include.match_file(relative) and not self._exclude.match_file(relative):
                    yield path

    def _opened(
        self, path: Path, item_id: str, rejects: list[PullReject], read: Callable[[BufferedReader], _Read]
    ) -> _Read | None:
        """What is read of the file; None if it is gone meanwhile or was put among the rejects."""
        try:
            if path.is_symlink() and not path.resolve(strict=True).is_relative_to(self._root.resolve()):
                raise PermissionError("a link that leads out of the source folder")
            if not path.is_file():
                raise OSError("neither a file nor a link to one")
            with path.open("rb") as file:
                return read(file)
        except FileNotFoundError:
            if path.is_symlink():
                rejects.append(
                    PullReject(item_id, _as_text(str(path)), "a link to nothing", "FileNotFoundError")
                )
            return None
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.12
            reason = getattr(error, "strerror", None) or str(error)
            rejects.append(PullReject(item_id, _as_text(str(path)), reason, type(error).__name__))
            return None


def _first_bytes(file: BufferedReader) -> bytes:
    """One byte more than is ever taken: decoding says "too large", nothing larger is held."""
    return file.read(MAX_TEXT_BYTES + 1)


def _in_batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while some := list(islice(paths, MEDIA_AT_ONCE)):
        yield some


def _both_cases(patterns: tuple[str, ...]) -> list[str]:
    """Patterns for names in small and in large letters, as cameras give them."""
    return [p for pattern in patterns for p in (pattern, pattern.upper())]


def _as_text(name: str) -> str:
    """A file name as a string that any table can hold: undecodable bytes are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
