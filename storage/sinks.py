"""A file in the making: what is the same wherever it lies.

`storage.places` has the kind for local files, `storage.remote` the one for object stores.
"""

import hashlib
from abc import ABC, abstractmethod


class Sink(ABC):
    """A file that is being written, once, from its beginning; pyarrow writes Parquet into it.

    `finish` makes it whole and durable under its name; without it nothing (whole) is there.
    """

    closed = False

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._put(data)
        written = memoryview(data).nbytes
        self.size += written
        return written

    def finish(self) -> str:
        """Make the file whole and durable; the SHA-256 of everything written, in hex."""
        self._complete()
        return self._hash.hexdigest()

    @abstractmethod
    def abandon(self) -> None:
        """Close without a result: the writing failed."""

    @abstractmethod
    def flush(self) -> None: ...

    @abstractmethod
    def _put(self, data: bytes) -> None: ...

    @abstractmethod
    def _complete(self) -> None: ...

    def close(self) -> None:  # noqa: B027 - of every kind
        """Does nothing: pyarrow closes what it wrote to, and the file is ready only with `finish`."""

    def tell(self) -> int:
        return self.size

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
