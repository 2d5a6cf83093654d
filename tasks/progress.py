"""What a run tells while it goes on, and when it is done."""

from dataclasses import dataclass, field
from typing import Protocol

from storage.commits import Counts


class Progress(Protocol):
    """Told how many of `what` are done, of how many, and how many of them are durable."""

    def __call__(self, done: int, total: int, durable: int, what: str = "items") -> None: ...


def quietly(done: int, total: int, durable: int, what: str = "items") -> None:
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
