"""I/O errors at the n-th call of the functions by which Python reads and writes files."""

import io
import os
from contextlib import contextmanager

CALLS = ("fsync", "link", "replace", "unlink", "mkdir", "scandir")


class Faults:
    """Fails the `at`-th call that touches what is below `root`; `for_good` all that write after it, too."""

    def __init__(self, root, at, number, *, for_good):
        self._root, self._at, self._number, self._for_good = str(root), at, number, for_good
        self.calls = 0
        self.struck = 0

    def strike(self, what, path):
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
        if not path.startswith(self._root):
            return
        self.calls += 1
        goes_on = self._for_good and self.calls > self._at and what not in ("read", "scandir", "unlink")
        if self.calls == self._at or goes_on:
            self.struck += 1
            raise OSError(self._number, os.strerror(self._number), path)


class _File:
    """A file of which a write or a flush may fail."""

    def __init__(self, file, faults, path):
        self._file, self._faults, self._path = file, faults, path

    def write(self, data):
        self._faults.strike("write", self._path)
        return self._file.write(data)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *failed):
        return self._file.__exit__(*failed)

    def __getattr__(self, name):
        return getattr(self._file, name)


@contextmanager
def striking(faults):
    """The calls of this process fail as `faults` says."""
    opened, low, found = io.open, os.open, {name: getattr(os, name) for name in CALLS}

    def open_file(path, mode="r", *args, **options):
        reads = set(mode) <= set("rbt")
        if isinstance(path, int):
            return opened(path, mode, *args, **options)
        faults.strike("read" if reads else "open", path)
        file = opened(path, mode, *args, **options)
        return file if reads else _File(file, faults, path)

    def open_low(path, flags, *args, **options):
        faults.strike("open" if flags & os.O_CREAT else "read", path)
        return low(path, flags, *args, **options)

    def wrapped(name):
        def call(path, *args, **options):
            faults.strike(name, path)
            return found[name](path, *args, **options)

        return call

    io.open, os.open = open_file, open_low
    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield
    finally:
        io.open, os.open = opened, low
        for name in CALLS:
            setattr(os, name, found[name])
