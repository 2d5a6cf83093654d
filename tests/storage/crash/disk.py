"""A disk that forgets: what a trace of system calls leaves, of which only what was fsynced is sure to stay.

By POSIX alone: fsync of a file keeps its bytes, fsync of a folder the names in it, and neither the
other. A rename is one change; all else may be lost in any combination.
"""

import hashlib
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,write,pwrite64,writev,pwritev,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,"
CALLS += (
    "unlinkat,mkdir,mkdirat,rmdir,ftruncate,truncate,fallocate,copy_file_range,sendfile,symlink,symlinkat"
)
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*)) = (-?\d+|\?)(?:<(\S*)>)?(.*)$")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_HANDLE = re.compile(r"^-?\w+<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded; `paths` are absolute, a handle's first."""

    name: str
    paths: tuple[str, ...]
    arguments: str
    result: int
    data: bytes = b""


def calls(trace):
    """The calls in the output of `strace -f -y -xx`, in the order in which they ended."""
    begun = {}
    for line in trace.splitlines():
        unfinished = _UNFINISHED.match(line)
        if unfinished:
            begun[unfinished[1]] = unfinished[3]
            continue
        found = _LINE.match(line)
        if not found or found[6] == "?" or int(found[6]) < 0:
            continue
        name, arguments = (found[2], begun.pop(found[1]) + found[3]) if found[2] else (found[4], found[5])
        yield _call(name, arguments, int(found[6]))


def _call(name, arguments, result):
    assert '"...' not in arguments, "strace cut a string"
    strings = [_bytes(text) for text, _ in _STRING.findall(arguments)]
    handle = _HANDLE.match(arguments)
    under = _bytes(handle[1]).decode() if handle else ""
    if name in ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "writev", "pwritev", "fallocate"):
        data = b"".join(strings)[:result] if name.startswith(("write", "pwrite")) else b""
        return Call(name, (under,), arguments, result, data)
    folders = [
        _bytes(at).decode() for at in re.findall(r"<((?:\\x[0-9a-f]{2})*)>", _STRING.sub("", arguments))
    ]
    folders += [""] * len(strings)
    paths = tuple(str(Path(at, text.decode())) for at, text in zip(folders, strings, strict=False))
    return Call(name, paths, arguments, result)


def _bytes(text):
    return bytes.fromhex(text.replace("\\x", ""))


class Choice(random.Random):
    """Decides what stays of that which was not fsynced: of the changes to folders the share `keeps`."""

    def __init__(self, seed):
        super().__init__(seed)
        self.keeps = (0.0, 0.5, 1.0)[seed % 3]


@dataclass
class File:
    """What a file holds now, and what of it is on the disk."""

    now: bytearray = field(default_factory=bytearray)
    kept: bytes = b""

    def crashed(self, choice):
        """What is there after the power came back: new bytes are lost, cut, zeroed or kept."""
        if choice is None or self.now == self.kept:
            return bytes(self.kept)
        how = choice.choice(["lost", "cut", "zeroed", "kept"])
        if how == "cut":
            return bytes(self.now[: choice.randint(len(self.kept), max(len(self.kept), len(self.now)))])
        if how == "zeroed":
            return bytes(self.kept[: len(self.now)]).ljust(len(self.now), b"\0")
        return bytes(self.kept if how == "lost" else self.now)


@dataclass
class Folder:
    """What a folder holds now, what of it is on the disk, and the changes between: (name, entry or None)."""

    now: dict = field(default_factory=dict)
    kept: dict = field(default_factory=dict)
    changes: list = field(default_factory=list)

    def change(self, *changes):
        for name, entry in changes:
            self.now.pop(name, None)
            if entry is not None:
                self.now[name] = entry
        self.changes.append(changes)

    def crashed(self, choice):
        entries = dict(self.kept)
        for changes in self.changes:
            if choice is not None and choice.random() < choice.keeps:
                for name, entry in changes:
                    entries.pop(name, None)
                    if entry is not None:
                        entries[name] = entry
        return entries


class Disk:
    """A folder that is there at the beginning, whole and durable, and all that calls then do below it.

    What it held then is read from `before`, where that is another folder.
    """

    def __init__(self, root, before=None):
        self._root = Path(root)
        self._tree = self._loaded(Path(before or root))

    def _loaded(self, path):
        if path.is_file():
            content = path.read_bytes()
            return File(bytearray(content), content)
        entries = {child.name: self._loaded(child) for child in path.iterdir()}
        return Folder(dict(entries), dict(entries))

    def apply(self, call):
        """Do what a call did; the paths below the root that it touched."""
        inside = [Path(path).relative_to(self._root) for path in call.paths if self._holds(path)]
        if inside:
            getattr(self, f"_{call.name.removesuffix('at2').removesuffix('at')}")(call, *inside)
        return inside

    def _holds(self, path):
        return Path(path).is_relative_to(self._root)

    def at(self, path):
        """The file or folder at a path relative to the root, as it is now."""
        found = self._tree
        for part in path.parts:
            found = found.now[part]
        return found

    def _open(self, call, path):
        if "O_CREAT" not in call.arguments and "O_TRUNC" not in call.arguments:
            return
        folder = self.at(path.parent)
        if path.name not in folder.now:
            folder.change((path.name, File()))
        elif "O_TRUNC" in call.arguments:
            folder.now[path.name].now.clear()

    def _write(self, call, path):
        self.at(path).now += call.data

    def _fsync(self, call, path):
        found = self.at(path)
        if isinstance(found, File):
            found.kept = bytes(found.now)
        else:
            found.kept, found.changes = dict(found.now), []

    def _fdatasync(self, call, path):
        self._fsync(call, path)

    def _link(self, call, source, target):
        self.at(target.parent).change((target.name, self.at(source)))

    def _rename(self, call, source, target):
        entry = self.at(source)
        if source.parent == target.parent:
            self.at(source.parent).change((source.name, None), (target.name, entry))
        else:
            raise AssertionError(f"a folder was renamed into another: {call}")

    def _unlink(self, call, path):
        self.at(path.parent).change((path.name, None))

    def _rmdir(self, call, path):
        self._unlink(call, path)

    def _mkdir(self, call, path):
        self.at(path.parent).change((path.name, Folder()))

    def files(self, state="now", choice=None):
        """Every file by its path relative to the root: as it is `now`, or after a power cut (`kept`).

        Without a `choice` all is lost that was not fsynced. Folders hold None.
        """
        found, contents = {}, {}

        def walk(entry, path):
            if isinstance(entry, Folder):
                entries = entry.now if state == "now" else entry.crashed(choice)
                found.setdefault(path, None)
                for name, child in entries.items():
                    walk(child, path / name)
                return
            if id(entry) not in contents:  # two names of one file
                contents[id(entry)] = bytes(entry.now) if state == "now" else entry.crashed(choice)
            found[path] = contents[id(entry)]

        walk(self._tree, Path())
        return found


def write_down(files, folder, before):
    """Make the files of a disk real, in a folder that holds those of `before`."""
    for path in sorted(before.keys() - files.keys(), reverse=True):
        if before[path] is None:
            (folder / path).rmdir()
        else:
            (folder / path).unlink()
    for path, content in sorted(files.items()):
        if content is None:
            (folder / path).mkdir(exist_ok=True)
        elif content != before.get(path):
            (folder / path).write_bytes(content)


def told(call):
    """The versions that a process says it has made, in this call."""
    if call.name != "write" or not call.data.startswith(b"ACK "):
        return []
    return [int(line[4:]) for line in call.data.decode().splitlines()]


def power_cuts(trace, root, before, seed, step):
    """What is on the disk if the power goes: (last version told of, files), each state once.

    After every `step`-th call that changes it; once with all lost that was not fsynced, and once with
    some of it there, by chance.
    """
    disk, last, seen, at = Disk(root, before), 0, set(), 0
    for call in calls(trace):
        last = max([last, *told(call)])
        at += bool(disk.apply(call))
        if at % step:
            continue
        for choice in (None, Choice(seed + at)):
            files = disk.files("kept", choice)
            state = (last, _digest(files))
            if state not in seen:
                seen.add(state)
                yield last, files


def _digest(files):
    found = hashlib.sha256()
    for path, content in sorted(files.items()):
        found.update(f"{path}\n{-1 if content is None else len(content)}\n".encode())
        found.update(content or b"")
    return found.digest()
