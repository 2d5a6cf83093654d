"""What a run tells while it goes on, and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass, field

from storage.commits import Counts

Progress = Callable[[int, int, int], None]
"""Called with (items encoded, items to encode, items durable)."""


def quietly(done: int, total: int, durable: int) -> None:
    """The progress of a step that is none of its own to a person who waits."""


@dataclass
class Landed:
    """What became durable."""

    version: int
    counts: Counts = field(default_factory=Counts)
    encode_seconds: float = 0.0


@dataclass
class Filled:
    """What the spaces of other releases got, as sentences; `version` is the head, 0 if nothing was done."""

    version: int
    notes: list[str] = field(default_factory=list)
