"""What the proofs share: a seeded history of a toy collection beside its model, maintenance, and a clock."""

import os
import random
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from storage import commits, maintenance, retention, transaction
from storage.locks import lock
from storage.retention import Retention
from storage.snapshot import Snapshot

TEXTS = "ab\N{GRINNING FACE}"


class Story:
    """A collection and, as plain values, what each of its versions should hold."""

    def __init__(self, toy, lake, seed=0, collection="docs"):
        self.toy, self.lake, self.collection = toy, lake, collection
        self.model, self.filled, self.told = toy.Model(), set(), {}
        self.second = toy.SECOND
        self.random = random.Random(seed)

    @property
    def head(self):
        return Snapshot.open(self.lake / self.collection)

    def commit(self, window, known=None):
        after = transaction.commit(self.lake, self.collection, window, known=known)
        self.tell(after.version)
        return after

    def tell(self, version):
        """Note what the model says now as what this version (and all since the last told) should hold."""
        now = dict(self.model.items), list(self.model.rejects.values()), frozenset(self.filled)
        before = self.told.get(max(self.told, default=0), now)
        for number in range(max(self.told, default=0) + 1, version):
            self.told[number] = before
        self.told[version] = now

    def act(self, actions):
        """One window of actions, (what, text, n) by id."""
        toy = self.toy
        refreshed = {i for i, (what, *_) in actions.items() if what == "refresh"} & set(self.model.items)
        window = self.model.window(actions)
        self.filled -= {i for i, (what, *_) in actions.items() if what in ("put", "delete")}
        moved = {i: self.model.items[i] for i in refreshed & self.filled}
        if moved:
            rows = toy.index_table(moved, dim=toy.SECOND_DIM)
            window = replace(window, index={**window.index, toy.SECOND_SPACE: rows})
        return self.commit(window)

    def step(self):
        """One random window, the same for one seed."""
        r = self.random
        kinds = ["leave", "put", "put", "delete", "refresh", "stale", "reject", "resolve"]
        return self.act(
            {
                i: (r.choice(kinds), "".join(r.choices(TEXTS, k=r.randint(1, 14))), r.choice([None, 1, 2]))
                for i in self.toy.IDS
            }
        )

    def fill(self, share=0.6):
        """Vectors of the second release for some of the items."""
        chosen = {i: v for i, v in sorted(self.model.items.items()) if self.random.random() < share}
        self.filled |= set(chosen)
        return self.commit(self.toy.filling(chosen, release=self.second))

    def grow(self, turns):
        """Some windows, and fillings between them."""
        for turn in range(turns):
            self.step()
            if turn % 2:
                self.fill()

    def holds(self, version, snapshot=None):
        """Assert that the data files of a version hold what the model said then."""
        toy = self.toy
        snapshot = snapshot or Snapshot.open(self.lake / self.collection, at=version)
        items, rejects, filled = self.told[version]
        assert toy.read_items(snapshot) == items
        assert toy.read_rejects(snapshot) == sorted(rejects, key=lambda row: (row[0] or "", row[1]))
        assert {row[:2] for row in toy.read_vectors(snapshot)} == self._chunks(items)
        second = {i: items[i] for i in filled}
        assert {row[:2] for row in toy.read_vectors(snapshot, toy.SECOND_SPACE)} == self._chunks(second)

    @staticmethod
    def _chunks(items):
        return {(i, number) for i, item in items.items() for number in range(len(item.chunks))}

    def is_live(self, snapshot=None):
        """Assert that rows, totals and indexes of the head are what the model says."""
        toy = self.toy
        snapshot = snapshot or self.head
        model = self.model
        toy.assert_is(self.lake, snapshot, model.items, list(model.rejects.values()))
        if toy.SECOND_SPACE in snapshot.head.indexes:
            filled = {i: model.items[i] for i in self.filled}
            toy.assert_space_is(self.lake, snapshot, filled, toy.SECOND_SPACE, toy.SECOND_DIM)


@pytest.fixture(autouse=True)
def _unsynced(request, monkeypatch):
    """What is durable when is proved elsewhere; here half the time would go into it."""
    if "synced" not in request.fixturenames:
        monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def synced():
    """For tests that need what they write to be synced after all."""


@pytest.fixture
def tale(toy, lake):
    """A collection `docs` beside its model."""
    return Story(toy, lake, seed=11)


@pytest.fixture
def story(toy):
    """The class of such collections."""
    return lambda *given, **more: Story(toy, *given, **more)


def maintain_lake(lake, collection="docs", *, days=14.0, releases=1, rebuild=False):
    """Maintain a collection as the flow does."""
    root, keep = lake / collection, Retention(days, releases)
    with lock(root, "maintain") as lease:
        snapshot = Snapshot.open(root, strict=True)
        work = maintenance.plan(lake, snapshot, keep, rebuild=rebuild)
        return maintenance.carry_out(lake, snapshot, work, keep, "run", lease)


def purge_lake(lake, collection="docs"):
    """Purge a collection as the flow does."""
    root = lake / collection
    with lock(root, "ingest") as ingest, lock(root, "maintain") as lease:
        return maintenance.purge(lake, Snapshot.open(root, strict=True), "run", ingest, lease)


@pytest.fixture
def maintain(lake):
    """Maintain `docs`."""
    return lambda *given, **how: maintain_lake(lake, *given, **how)


@pytest.fixture
def purge(lake):
    """Purge `docs`."""
    return lambda *given: purge_lake(lake, *given)


@pytest.fixture
def tools():
    """All of this for tests that make lakes of their own."""
    return SimpleNamespace(Clock=Clock, Story=Story, maintain=maintain_lake, purge=purge_lake)


class Clock:
    """The clock of the storage package, which a test moves."""

    def __init__(self, monkeypatch):
        clock = self
        self.shift = timedelta(0)

        class Moved(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + clock.shift

        for module in (commits, maintenance, retention):
            monkeypatch.setattr(module, "datetime", Moved)

    def move(self, **by):
        self.shift += timedelta(**by)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves; times of files on disk stay those of the machine."""
    return Clock(monkeypatch)
