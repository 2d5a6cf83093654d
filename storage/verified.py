"""Files found to be whole: each is hashed once, and again when its size or times say that it was touched."""

import contextlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage import parquet
from storage.errors import Damaged
from storage.parquet import DataFile
from storage.places import Place
from storage.remote import Remote

_RESTORE = "see `evervec doctor`, or restore this file from a backup"


def _digest(path: Path) -> str:
    try:
        return parquet.sha256(path)
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})", _RESTORE) from error


class Verified:
    """What this machine has hashed and found right, kept in the file `memory` (None: in this process).

    DuckDB and LanceDB check nothing that they read. This catches whatever was changed through the file
    system since; bits that a disk loses without a trace are for `doctor`, which hashes everything anew.
    An object store is trusted with its own checksums.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        try:
            known = json.loads(memory.read_bytes()) if memory else {}
        except (OSError, ValueError):
            known = {}  # only a memory: everything is hashed again
        self._known: dict[str, list[int | str]] = known if isinstance(known, dict) else {}

    def require(self, root: Place, files: Iterable[DataFile]) -> None:
        """Raise `Damaged` unless each of the files below `root` is what its record says."""
        if isinstance(root, Remote):
            return
        new = [(file, stamp) for file in files if (stamp := self._news(root, file)) is not None]
        if not new:
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = list(pool.map(lambda one: _digest(root / one[0].path), new))
        for (file, stamp), digest in zip(new, digests, strict=True):
            if digest != file.sha256:
                raise Damaged(root / file.path, "is not the file that was committed", _RESTORE)
            self._known[str(root / file.path)] = [*stamp, digest]
        self._save()

    def _news(self, root: Path, file: DataFile) -> list[int] | None:
        """Size and times of a file that is yet to be hashed; None for one that is known."""
        path = root / file.path
        try:
            facts = path.stat()
        except OSError as error:
            raise Damaged(path, f"cannot be read ({error.strerror})", _RESTORE) from error
        stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
        return None if self._known.get(str(path)) == [*stamp, file.sha256] else stamp

    def _save(self) -> None:
        if self._memory is None:
            return
        with contextlib.suppress(OSError):  # a folder that cannot be written to: hashed again next time
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._memory.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._memory)
