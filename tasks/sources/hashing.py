"""Hashing raw media: by several threads, a piece of each file at a time."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader

from tasks.sources.protocol import Digest

MEDIA_AT_ONCE = 256
"""Files that are hashed before a run looks whether it has enough."""


def digest(file: BufferedReader) -> Digest:
    """SHA-256 and size of an open file."""
    sha256 = hashlib.file_digest(file, "sha256").digest()
    return Digest(sha256, file.tell())


@contextmanager
def hashing() -> Iterator[ThreadPoolExecutor]:
    """The threads; hashing and reading both let others run."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool
