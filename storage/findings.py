"""What an examination of a lake says: one finding for each thing that is wrong, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.places import Place

MISSING = "is missing"
"""How a finding of a file that is not there begins."""

_SHOWN, _LONGEST = 3, 60


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (`damage`) or merely left over (`notice`).

    `path` is the file or folder, `what` continues a sentence that begins with it, `repair` is the
    command to run, or what to do where no command can help.
    """

    path: str
    what: str
    repair: str
    severity: Literal["damage", "notice"] = "damage"


def mend(collection: str) -> str:
    """The command that restores what the lake has twice, or can derive."""
    return f"evervec doctor {collection} --repair"


def drop(collection: str) -> str:
    """The command that goes on without what is lost."""
    return f"evervec doctor {collection} --repair --yes"


def restore(collection: str) -> str:
    """What to do about a damaged data file: a backup has it, and nothing else."""
    return f"restore it from a backup, or go on without it: {drop(collection)}"


def because(path: Place, what: str, repair: str) -> Finding:
    """A finding of damage."""
    return Finding(str(path), what, repair)


def notice(path: Place, what: str, repair: str) -> Finding:
    """A finding of something left over."""
    return Finding(str(path), what, repair, "notice")


def some(keys: Sequence[object], total: int) -> str:
    """The first few of `total` keys, each on one line and not too long."""
    shown = [text if len(text := repr(k)) <= _LONGEST else text[:_LONGEST] + "…" for k in keys[:_SHOWN]]
    more = total - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
