"""Judged queries: a JSONL file that says which items each query should find."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import QueriesUnusable


@dataclass(frozen=True)
class Judged:
    """A query, and the ids of the items that answer it."""

    query: str
    relevant: tuple[str, ...]


def read_judged(path: Path) -> tuple[list[Judged], str]:
    """The queries of a file of `{"query": …, "relevant": [item ids]}` lines, and the SHA-256 of its bytes.

    Other keys are left alone. Raises `QueriesUnusable`, naming the line.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QueriesUnusable(f"--queries {path} cannot be read ({error}); {_EXPECTED}") from None
    found = [_query(path, n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise QueriesUnusable(f"--queries {path} is empty; {_EXPECTED}")
    return found, hashlib.sha256(content).hexdigest()


def known(queries: Sequence[Judged], item_ids: set[str]) -> list[Judged]:
    """The queries of which at least one answer is in the collection, with those answers."""
    found = [Judged(q.query, tuple(i for i in q.relevant if i in item_ids)) for q in queries]
    return [q for q in found if q.relevant]


_EXPECTED = 'expected one object a line, like {"query": "a question", "relevant": ["item-1", "item-7"]}'


def _query(path: Path, number: int, line: str) -> Judged:
    try:
        row: Any = json.loads(line)
    except ValueError:
        raise QueriesUnusable(f"--queries {path}, line {number}: not JSON; {_EXPECTED}") from None
    query = row.get("query") if isinstance(row, dict) else None
    relevant = row.get("relevant") if isinstance(row, dict) else None
    if not isinstance(query, str) or not query.strip():
        raise QueriesUnusable(f"--queries {path}, line {number}: no text under `query`; {_EXPECTED}")
    if not isinstance(relevant, list) or not all(isinstance(i, str) for i in relevant):
        raise QueriesUnusable(f"--queries {path}, line {number}: no ids under `relevant`; {_EXPECTED}")
    return Judged(query, tuple(dict.fromkeys(relevant)))
