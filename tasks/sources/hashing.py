"""Hashing raw media: by several threads, a piece of each file at a time."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader

from tasks.sources.protocol import Digest

MEDIA_AT_ONCE = 256
"""Files that are hashed before a run looks whether it has enough."""


def digest(file: BufferedReader) -> Digest:
    """SHA-256 and size of an open file."""
    sha256 = hashlib.file_digest(file, "sha256").digest()
    return Digest(sha256, file.tell())


def hashing() -> ThreadPoolExecutor:
    """The threads; hashing and reading both let others run."""
    return ThreadPoolExecutor(os.cpu_count())
