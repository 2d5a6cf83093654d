"""A prefix of an object store as a place; see `storage.places` for what is promised.

Needs the extra `s3` (obstore), imported only when something is done: a local lake must not pay for it.
Endpoint, region and credentials are what obstore finds in the standard `AWS_*` variables, else a web
identity, container or instance role; profiles of `~/.aws` it does not read.
"""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from storage.errors import StorageError
from storage.sinks import Sink

PART = 8 * 2**20
"""Bytes of one part of an upload; a file in the making holds up to five of them in memory."""

_PARTS_AT_ONCE = 4
_READ_AHEAD = 2**18
_READ_WHOLE = 2**20
_KEYS_PER_LISTING = 1000
_ATTEMPTS = 3


@dataclass(frozen=True)
class Remote:
    """`s3://bucket/key`: a file, or the common beginning of the keys of a folder's files.

    Every method raises `StorageError` if the store cannot be reached, refuses, or has no such bucket.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "Remote":
        """The place that `s3://bucket/prefix` names; a slash at the end means nothing."""
        bucket, _, key = text.removeprefix("s3://").rstrip("/").partition("/")
        if not bucket or (key and {"", ".", ".."} & set(key.split("/"))):
            raise StorageError(f"{text!r} is no place in an object store; write s3://bucket/prefix")
        return cls(bucket, key)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(self.bucket, f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "Remote":
        return Remote(self.bucket, self.key.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether there is such a file; of a folder this is always false."""
        try:
            self._head()
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """The whole file. Raises `FileNotFoundError`."""
        found = get(self)
        if found is None:
            raise FileNotFoundError(str(self))
        return found.data

    def modified(self) -> datetime:
        """When the file was last written, by the store's own clock. Raises `FileNotFoundError`."""
        when: datetime = self._head()["last_modified"]
        return when

    def names(self) -> list[str]:
        """Names of the files directly in this folder, however many."""
        return [entry["path"].rpartition("/")[2] for entry in self._listing()["objects"]]

    def walk(self) -> Iterator[tuple[str, int, datetime]]:
        """Path relative to this folder, bytes and time of the last change of every file below it."""
        start = len(self.key) + 1 if self.key else 0
        for entries in self._pages():
            for entry in entries:
                yield entry["path"][start:], entry["size"], entry["last_modified"]

    def create(self, data: bytes) -> None:
        """Write a new file, or raise `FileExistsError` and leave the other as it is.

        Of several who try at once exactly one succeeds. An answer that was lost is looked up: if the
        file holds just `data` it counts as written by this call. After a `StorageError` it is unknown
        whether the file will be there.
        """
        if put_if(self, data, None) is None:
            raise FileExistsError(f"{self} is already there")

    def replace(self, data: bytes) -> None:
        """Write the file, in place of any that was there."""
        with _explained(self):
            _store(self.bucket).put(self.key, data)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        with _explained(self):
            _store(self.bucket).delete(self.key)

    def remove_tree(self) -> None:
        """Remove every file below this folder."""
        for entries in self._pages():
            with _explained(self):
                _store(self.bucket).delete([entry["path"] for entry in entries])

    def open_input(self) -> "Input":
        """The file for reading at any position. Raises `FileNotFoundError`."""
        return Input(self, self._head()["size"])

    def sink(self) -> Sink:
        """The file for writing from its beginning, in place of any that was there."""
        return _RemoteSink(self)

    def _head(self) -> Any:
        with _explained(self):
            return _store(self.bucket).head(self.key)

    def _listing(self) -> Any:
        with _explained(self):
            return _store(self.bucket).list_with_delimiter(self.key or None)

    def _pages(self) -> Iterator[Any]:
        with _explained(self):
            yield from _store(self.bucket).list(self.key or None, chunk_size=_KEYS_PER_LISTING)


class Input:
    """An object read at any position by range requests; made by `Remote.open_input`.

    Every thread has a position of its own: DuckDB seeks and reads one handle from several threads at
    once, and with a common position they read each other's bytes.
    """

    closed = False

    def __init__(self, place: Remote, size: int) -> None:
        self.size = size
        self._place = place
        self._positions: dict[int, int] = {}  # not a threading.local: a foreign thread's is gone with the GIL
        self._ahead = (0, b"")

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self.tell(), self.size)[whence]
        self._positions[threading.get_ident()] = base + offset
        return base + offset

    def tell(self) -> int:
        return self._positions.get(threading.get_ident(), 0)

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes from this thread's position, fewer only at the end of the file."""
        start = self.tell()
        end = self.size if size is None or size < 0 else min(start + size, self.size)
        if start >= end:
            return b""
        data = self._range(start, end)
        self.seek(end)
        return data

    def _range(self, start: int, end: int) -> bytes:
        at, ahead = self._ahead
        if not at <= start <= end <= at + len(ahead):
            if end - start >= _READ_AHEAD:
                return self._fetch(start, end)
            # a round trip costs more than some bytes: a small file comes whole, of others a bit more
            at = 0 if self.size <= _READ_WHOLE else start
            ahead = self._fetch(at, self.size if at == 0 else min(start + _READ_AHEAD, self.size))
            self._ahead = at, ahead
        return ahead[start - at : end - at]

    def _fetch(self, start: int, end: int) -> bytes:
        with _explained(self._place):
            data: bytes = (
                _store(self._place.bucket).get_range(self._place.key, start=start, end=end).to_bytes()
            )
        return data

    def close(self) -> None:
        self.closed = True
        self._ahead = (0, b"")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True


class _RemoteSink(Sink):
    """An object written piece by piece, in parts of `PART` bytes; made by `Remote.sink`.

    Nobody sees anything of it before `finish`.
    """

    def __init__(self, place: Remote) -> None:
        super().__init__()
        self._place = place
        self._writer = _obstore().open_writer(
            _store(place.bucket), place.key, buffer_size=PART, max_concurrency=_PARTS_AT_ONCE
        )

    def _put(self, data: bytes) -> None:
        with _explained(self._place):
            self._writer.write(data)

    def flush(self) -> None:
        """A part goes out when it is full; there is nothing to hurry."""

    def _complete(self) -> None:
        with _explained(self._place):
            self._writer.close()

    def abandon(self) -> None:
        """End without a file, and take back the parts that were sent.

        If the store cannot be reached they stay, unseen, until a lifecycle rule of the bucket
        (AbortIncompleteMultipartUpload) removes them.
        """
        failed = StorageError("abandoned")
        with contextlib.suppress(StorageError), _explained(self._place):
            self._writer.__exit__(StorageError, failed, None)  # obstore has no other call that aborts


def filesystem(place: Remote) -> Any:
    """What lies below `place`, read-only, for `register_filesystem` of a DuckDB connection.

    A folder is listed once, when it is first asked for; what comes later is not seen.
    """
    import fsspec  # type: ignore[import-untyped]

    folders: dict[Remote, list[dict[str, Any]]] = {}

    class Below(fsspec.AbstractFileSystem):  # type: ignore[misc]
        """fsspec derives `info`, `exists`, `size` and `glob`, which DuckDB calls, from `ls`."""

        protocol = "s3"
        cachable = False

        def ls(self, path: str, detail: bool = True, **_: object) -> list[Any]:
            folder = _inside(place, path)
            if folder not in folders:
                found = folder._listing()
                folders[folder] = [
                    *(_entry(folder, o["path"], o["size"], o["last_modified"]) for o in found["objects"]),
                    *(_entry(folder, name) for name in found["common_prefixes"]),
                ]
            return folders[folder] if detail else [entry["name"] for entry in folders[folder]]

        def open(self, path: str, mode: str = "rb", **_: object) -> Input:
            if mode != "rb":
                raise PermissionError(f"{path} can only be read")
            return Input(_inside(place, path), self.info(path)["size"])

        def modified(self, path: str) -> datetime:
            time: datetime = self.info(path)["modified"]
            return time

    return Below()


def _inside(place: Remote, path: str) -> Remote:
    inside = Remote.parse(path)
    if inside != place and not str(inside).startswith(f"{place}/"):
        raise PermissionError(f"{inside} is not below {place}")
    return inside


def _entry(
    folder: Remote, key: str, size: int | None = None, modified: datetime | None = None
) -> dict[str, Any]:
    kind = "directory" if size is None else "file"
    return {"name": f"{folder.bucket}/{key}", "size": size or 0, "type": kind, "modified": modified}


def lance_options(place: Remote) -> dict[str, str]:
    """`storage_options` with which lancedb reaches `place` as this module does."""
    return {"allow_http": "true"}


@dataclass(frozen=True)
class Found:
    """An object as it was at one moment."""

    data: bytes
    etag: str
    modified: datetime


def get(place: Remote) -> Found | None:
    """The object as it is now; None if it is not there."""
    try:
        with _explained(place):
            found = _store(place.bucket).get(place.key)
            return Found(found.bytes().to_bytes(), found.meta["e_tag"], found.meta["last_modified"])
    except FileNotFoundError:
        return None


def put_if(place: Remote, data: bytes, etag: str | None) -> str | None:
    """Write `data` if the object still has that ETag (None: is not there); the new ETag, else None.

    `data` must be unlike anything written there before: an answer can get lost after the store has
    written, and the next try is then refused because of the first. So a refusal is believed only when
    the object holds something else. S3 also refuses (409) when writers meet and none wins; then the
    object is as it was, and the put is made again.
    """
    store, known = _store(place.bucket), _obstore().exceptions
    mode: Any = {"e_tag": etag} if etag else "create"
    attempt = 0
    with _explained(place):
        while True:
            attempt += 1
            try:
                return str(store.put(place.key, data, mode=mode)["e_tag"])
            except (known.AlreadyExistsError, known.PreconditionError, known.GenericError):
                found = get(place)
                if found and found.data == data:
                    return found.etag
                if (found.etag if found else None) != etag:
                    return None
                if attempt == _ATTEMPTS:
                    raise
            time.sleep(0.05 * 2**attempt)


@cache
def _store(bucket: str) -> Any:
    # Plain http is used only if the endpoint says so. A request may take long as long as bytes flow.
    options = {"allow_http": True, "timeout": "10m", "read_timeout": "30s"}
    return _obstore().store.S3Store(bucket, client_options=options)


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise StorageError(
            f"a place in an object store needs a package that is missing ({error}); pip install 'evervec[s3]'"
        ) from None
    return obstore


@contextmanager
def _explained(place: Remote) -> Iterator[None]:
    """Turn what obstore raises into a `StorageError` that says what to do; `FileNotFoundError` stays."""
    base = _obstore().exceptions.BaseError
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageError(_advice(place, str(error))) from None
        raise FileNotFoundError(str(place)) from None
    except base as error:
        raise StorageError(_advice(place, str(error))) from None


def _advice(place: Remote, text: str) -> str:
    """One line from obstore's many, which repeat the store's whole answer."""
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    reason = text.partition("\n")[0].partition(" - ")[2].partition("<")[0].strip(" :")
    what = code[1] if code else status[1] if status else reason or "the store cannot be used"
    if "NoSuchBucket" in text:
        todo = f"create the bucket {place.bucket!r} or correct its name"
    elif "169.254.169.254" in text:
        what, todo = "no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif re.search("status code: 40[13]", text):
        todo = (
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, and that they may get, put, "
            "delete and list there"
        )
    else:
        todo = "check AWS_ENDPOINT_URL, AWS_REGION and the network"
    return f"{place}: {what}; {todo}"
