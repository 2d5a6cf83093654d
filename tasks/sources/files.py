"""Text files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pathspec
import pyarrow as pa

from encoders.decode import MAX_TEXT_BYTES
from storage import arrays
from tasks.errors import SourceUnusable
from tasks.project import FilesSource
from tasks.sources.protocol import BATCH_BYTES, BATCH_ITEMS, Pulled, PullReject, rows_table


class Files:
    """Lists the folder in name order; reads each file once.

    Links to files that lie outside are rejected; links to folders are not followed.
    """

    encoding: str | None = None

    def __init__(self, spec: FilesSource) -> None:
        self._root = spec.path
        self._include = pathspec.GitIgnoreSpec.from_lines(spec.include)
        self._exclude = pathspec.GitIgnoreSpec.from_lines(spec.exclude)
        self.where = str(spec.path)

    def pull(self, since: str | None) -> Iterator[Pulled]:
        if not self._root.is_dir():
            what = "is a file" if self._root.exists() else "does not exist"
            raise SourceUnusable(
                f"source.path {self._root} {what}; expected a folder of text files. "
                "Correct `path:` in evervec.yaml, or create the folder"
            )
        ids: list[str] = []
        uris: list[str] = []
        contents: list[bytes] = []
        rejects: list[PullReject] = []
        size = count = 0
        for path in self._listed(rejects):
            item_id = _as_text(path.relative_to(self._root).as_posix())
            content = self._read(path, item_id, rejects)
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

    def _read(self, path: Path, item_id: str, rejects: list[PullReject]) -> bytes | None:
        """The file's content; None if it is gone meanwhile or was put among the rejects."""
        try:
            if path.is_symlink() and not path.resolve(strict=True).is_relative_to(self._root.resolve()):
                raise PermissionError("a link that leads out of the source folder")
            if not path.is_file():
                raise OSError("neither a file nor a link to one")
            with path.open("rb") as file:
                # one byte more than is ever taken: decoding says "too large", nothing larger is held
                return file.read(MAX_TEXT_BYTES + 1)
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


def _as_text(name: str) -> str:
    """A file name as a string that any table can hold: undecodable bytes are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
