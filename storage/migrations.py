"""Records of earlier formats, brought to today's shape as they are read. Append-only: never edit a step.

A stored record is never rewritten: what was committed stays as it is, and every later program reads it.
"""

from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


def _from_1(old: Document) -> Document:
    """Format 2: several releases and indexes a collection, files that leave, a nonce, retention."""
    new = {k: v for k, v in old.items() if k not in ("index", "live")}
    live = old["live"]
    return {
        **new,
        "format": 2,
        "nonce": "",
        "schema_id": 1,
        "indexes": {live["space_id"]: old["index"]},
        "releases": [{**live, "version": 1}],
        "live_release": live["release"],
    }


def _from_2(old: Document) -> Document:
    """Format 3: releases say how they came to be out of others; what they do not say has its default."""
    return {**old, "format": 3}


STEPS: dict[int, Callable[[Document], Document]] = {1: _from_1, 2: _from_2}
"""From a format to the next."""


def migrated(document: Document, to: int) -> Document:
    """The record as format `to` has it. The format must be known: `to` or a key of `STEPS`."""
    while document["format"] != to:
        document = STEPS[document["format"]](document)
    return document
