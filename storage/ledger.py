"""The commit log as far as it can be read, damage and all: what an examination starts from.

Readers and writers open a `Snapshot`, which refuses damage or goes around it. This reads every record
and its second copy, folds what is whole, and keeps a finding for what is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from storage import checkpoints, places
from storage.checkpoints import Checkpoint
from storage.commits import Commit, Log, parse, unsealed
from storage.errors import Damaged
from storage.findings import MISSING, Finding, because, mend, notice
from storage.fold import Fold, LiveFile
from storage.places import Place
from storage.snapshot import Snapshot

_LINES = 1_000
_LISTED = 5
"""Second copies that are missing are named one by one, up to so many."""

_DIGITS = 20


@dataclass(frozen=True)
class Known:
    """A data file that the log names; `until` is the first version without it, None while it is live."""

    file: LiveFile
    until: int | None = None


@dataclass(frozen=True)
class Needed:
    """A data file of a version that can be read; `past` says which, if the head is none of them."""

    file: LiveFile
    past: str = ""


@dataclass
class Ledger:
    """What the log says, of a collection in `root`.

    `state` is the fold as far as it can be made; `twins` are the files of the log that their other copy
    can restore, as (damaged, whole, number); `wrong` are versions whose checkpoint is damaged, `marks`
    the live files at each whole one. With `gaps` the log lacks records: files may be of those.
    """

    root: Place
    state: Fold = field(default_factory=Fold)
    known: dict[str, Known] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    twins: list[tuple[Place, Place, int]] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    marks: dict[int, tuple[LiveFile, ...]] = field(default_factory=dict)
    gaps: bool = False
    _single: list[tuple[int, bool]] = field(default_factory=list)
    _history: "_History | None" = field(default_factory=lambda: _History())

    @classmethod
    def read(cls, root: Place) -> "Ledger":
        """Read every record, copy and checkpoint of the collection in `root`."""
        ledger, log = cls(root), Log(root)
        numbers = sorted({n for folder in (log.directory, log.copies) for n in _numbers(folder)})
        marked = checkpoints.numbers(root / "_checkpoints")
        last, there = 0, set(numbers)
        for number in sorted(there | {n for n in marked if numbers and n < numbers[-1]}):
            if number in there:
                if number > last + 1:
                    ledger._lost(log, last + 1, number - 1)
                commit = ledger._record(log, number)
                if commit is not None and number == ledger.state.number + 1:
                    ledger._apply(commit)
                last = number
            if number in marked:
                ledger._checkpoint(number)
        ledger.findings += _without_copies(log, ledger._single, last)
        for number in (n for n in marked if n > last):
            path = checkpoint_file(root, number, "json")
            what = f"is of version {number}, but the log ends at {last}: records are lost"
            ledger.findings.append(because(path, what, "restore the log from a backup of the lake"))
        return ledger

    def needed(self) -> dict[str, Needed]:
        """The data files of all versions that can be read, by path."""
        head = self.state.head
        if head is None:
            return {}
        kept = head.purged_at or 1
        lowest = max(head.readable_from, kept)
        named = {r.version for r in head.releases if not r.retired and r.version and r.version >= kept}
        spaces = {r.space_id for r in head.releases if not r.retired}
        found = {}
        for path, known in self.known.items():
            since, until = known.file.since, known.until
            if until is None:
                found[path] = Needed(known.file)
            elif until > lowest:
                found[path] = Needed(known.file, _span(max(since, lowest), until - 1))
            elif known.file.kind == "vectors" and known.file.space_id not in spaces:
                continue  # of a space that was retired since: it went even from versions that are named
            elif versions := sorted(v for v in named if since <= v < until):
                found[path] = Needed(known.file, _span(versions[0], versions[-1]))
        return found

    def masks(self, number: int) -> dict[str, np.ndarray]:
        """Masked rows by file as a whole checkpoint has them."""
        return checkpoints.read(self.root / "_checkpoints", number).masks()

    def _record(self, log: Log, number: int) -> Commit | None:
        """The record, from whichever copy is whole."""
        record, copy = _parsed(log.path(number), number), _parsed(log.copy(number), number)
        name = self.root.name
        if isinstance(record, Damaged) and isinstance(copy, Damaged):
            for error in (record, copy):
                what, remedy = error.found, error.remedy
                if remedy != "update Evervec":
                    remedy = "restore it from a backup of the lake: both copies are damaged"
                self.findings.append(because(error.path, what, remedy))
            self.gaps = True
            return None
        if isinstance(record, Damaged):
            self.findings.append(because(record.path, record.found, mend(name)))
            self.twins.append((log.path(number), log.copy(number), number))
            return None if isinstance(copy, Damaged) else copy
        if isinstance(copy, Damaged):
            self.twins.append((log.copy(number), log.path(number), number))
            if places.exists(log.copy(number)):
                self.findings.append(because(copy.path, copy.found, mend(name)))
            else:
                self._single.append((number, bool(record.nonce)))
        elif record != copy:
            what = "is whole, and so is its second copy, but they say different things"
            self.findings.append(because(log.path(number), what, "restore both from one backup of the lake"))
        if record.parent != number - 1:
            what = f"names version {record.parent} as its parent, expected {number - 1}"
            self.findings.append(because(log.path(number), what, "restore it from a backup of the lake"))
        return record

    def _lost(self, log: Log, first: int, last: int) -> None:
        what = f"{MISSING}, and so is its second copy"
        if last > first:
            what += f"; so are those up to version {last}"
        self.findings.append(because(log.path(first), what, "restore it from a backup of the lake"))
        self.gaps = True

    def _apply(self, commit: Commit) -> None:
        self.state.apply(commit)
        for path in commit.removed:
            self.known[path] = Known(self.known[path].file, commit.number)
        brought = (*commit.items, *commit.rejects, *commit.deletes, *sum(commit.vectors.values(), ()))
        self.known.update({file.path: Known(self.state.files[file.path]) for file in brought})
        if self._history is not None:
            self._history.add(commit)

    def _checkpoint(self, number: int) -> None:
        """Compare a checkpoint with the fold of the log, or go on from it if that has a gap before it."""
        try:
            found = checkpoints.read(self.root / "_checkpoints", number)
        except Damaged as error:
            self.wrong.append(number)
            self.findings.append(because(*_torn_part(self.root, number, error), mend(self.root.name)))
            return
        fold = found.fold()
        if self.state.number < number:
            self._go_on_from(fold)
        elif wrong := self._unlike(found, fold):
            self.wrong.append(number)
            path = checkpoint_file(self.root, number, wrong)
            self.findings.append(because(path, "is whole, but not what the log says", mend(self.root.name)))
            return
        self.marks[number] = tuple(fold.files.values())

    def _unlike(self, found: Checkpoint, fold: Fold) -> str:
        """Which file of a checkpoint contradicts the log; empty if none does."""
        if found.contents.head != self.state.head:
            return "json"
        if fold.files != self.state.files or fold.index_files != self.state.index_files:
            return "files.parquet"
        told = self._history.table() if self._history is not None else None
        return "" if told is None or told.equals(found.history()) else "history.parquet"

    def _go_on_from(self, fold: Fold) -> None:
        self.known = {
            path: known if path in fold.files else Known(known.file, known.until or fold.number)
            for path, known in self.known.items()
        }
        self.known.update({path: Known(file) for path, file in fold.files.items()})
        self.state, self._history = fold.copy(), None


def without(root: Place, state: Fold, bad: set[str]) -> Snapshot | None:
    """A version without its damaged files; None if it is unknown which rows of the others are live.

    Masks of a damaged `deletes` file are taken from a checkpoint that was made after it.
    """
    lost = [f.since for f in state.files.values() if f.kind == "deletes" and f.file.path in bad]
    base = checkpoints.newest(root, state.number) if lost else None
    if lost and (base is None or base.number < max(lost)):
        return None
    good = state.copy()
    good.files = {path: file for path, file in good.files.items() if path not in bad}
    return Snapshot(root, good, base, ())


def checkpoint_file(root: Place, number: int, kind: str) -> Place:
    """One of the files of a checkpoint: `json`, or a part."""
    return root / "_checkpoints" / f"{number:0{_DIGITS}d}.{kind}"


class _History:
    """Lines of the history, a table a thousand."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []
        self._lines: list[dict[str, object]] = []

    def add(self, commit: Commit) -> None:
        self._lines.append(checkpoints.line(commit))
        if len(self._lines) == _LINES:
            self._flush()

    def table(self) -> pa.Table:
        self._flush()
        return pa.concat_tables(self._tables)

    def _flush(self) -> None:
        self._tables.append(pa.Table.from_pylist(self._lines, schema=checkpoints.HISTORY))
        self._lines = []


def _parsed(path: Place, number: int) -> Commit | Damaged:
    try:
        return parse(path, number)
    except Damaged as error:
        return error
    except OSError as error:
        return Damaged(path, f"cannot be read ({error.strerror})", "")
    except (ValueError, KeyError) as error:
        return Damaged(path, f"is sealed, but no commit record ({str(error).splitlines()[0]})", "")


def _without_copies(log: Log, records: list[tuple[int, bool]], newest: int) -> Iterator[Finding]:
    """Records (number, whether it has a nonce) without a second copy.

    The first format had neither nonces nor copies, which is no damage; nor is it if the newest record
    alone has none, whose writer may have died in between.
    """
    repair = mend(log.directory.parent.name)
    lost = [number for number, has_nonce in records if has_nonce]
    if lost == [newest]:
        what = f"{MISSING}: the second copy of version {newest}, as after a crash; the next commit writes it"
        yield notice(log.copy(newest), what, repair)
        lost = []
    if old := sum(not has_nonce for _, has_nonce in records):
        yield notice(log.copies, f"lacks second copies of {old:,} records from before there were any", repair)
    if len(lost) > _LISTED:
        what = f"lacks second copies of {len(lost):,} records, from version {lost[0]} to {lost[-1]}"
        yield because(log.copies, what, repair)
        return
    for number in lost:
        yield because(log.copy(number), f"{MISSING}: the second copy of version {number}", repair)


def _torn_part(root: Place, number: int, error: Damaged) -> tuple[Place, str]:
    """The file of a checkpoint that is damaged, and how."""
    for part in ("files", "masks", "history"):
        path = checkpoint_file(root, number, f"{part}.parquet")
        if not places.exists(path):
            return path, MISSING
    path = checkpoint_file(root, number, "json")
    try:
        told = unsealed(path, places.read(path)).get("number")
    except (Damaged, OSError):
        told = number
    return (error.path, error.found) if told == number else (path, f"is the checkpoint of version {told}")


def _numbers(folder: Place) -> set[int]:
    names = (n.removesuffix(".json") for n in places.names(folder) if n.endswith(".json"))
    return {int(n) for n in names if len(n) == _DIGITS and n.isdecimal()}


def _span(first: int, last: int) -> str:
    return f"version {first}" if first == last else f"versions {first} to {last}"
