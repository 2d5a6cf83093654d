"""Anything that can be done to a collection, in any order, beside a model of plain values."""

import os
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storage import releases, sql
from storage.errors import NoSuchRelease, VersionGone
from storage.snapshot import Snapshot

NO_EMBED = "no text is embedded here"


def machine(toy, tools):  # noqa: C901  one method a rule
    """The class of a collection that is worked on and a model that is worked on alike."""
    ids = st.sampled_from(toy.IDS)
    texts = st.text("ab\N{GRINNING FACE}", min_size=1, max_size=14)
    number = st.one_of(st.none(), st.integers(0, 9))
    windows = st.dictionaries(
        ids,
        st.tuples(
            st.sampled_from(["put", "put", "put", "delete", "refresh", "stale", "reject", "resolve"]),
            texts,
            number,
        ),
        min_size=1,
        max_size=4,
    )

    class Collection(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.patch = pytest.MonkeyPatch()
            self.clock = tools.Clock(self.patch)
            self.folder = Path(tempfile.mkdtemp(prefix="evervec-stateful-"))
            self.tale = tools.Story(toy, self.folder / "lake")
            self.root = self.folder / "lake/docs"
            self.held = Snapshot.open(self.root)
            self.live, self.named, self.ended = 1, {1: 1}, {}
            self.readable_from, self.purged_at = 1, None
            self.checked, self.times = 0, {}

        def teardown(self):
            self.patch.undo()
            shutil.rmtree(self.folder)

        # what changes rows

        @initialize(actions=windows)
        def first(self, actions):
            self.write(actions)

        @rule(actions=windows)
        def write(self, actions):
            self.held = self.tale.act(actions)

        @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
        def fill(self, share):
            self.held = self.tale.fill(share)
            self.filling = True

        @precondition(lambda self: self.tale.model.items)
        @rule(at=st.integers(0, 9))
        def shrink(self, at):
            item_id = sorted(self.tale.model.items)[at % len(self.tale.model.items)]
            self.held = self.tale.act({item_id: ("put", "a", at)})

        @rule(actions=windows)
        def write_from_an_old_snapshot(self, actions):
            self.tale.act({})
            before = self.held
            window = self.tale.model.window({i: a for i, a in actions.items() if a[0] in ("put", "delete")})
            self.tale.filled -= {i for i, a in actions.items() if a[0] in ("put", "delete")}
            self.held = self.tale.commit(window, known=before)

        # what changes none

        def tell(self):
            self.tale.tell(self.tale.head.version)

        def maintained(self, days, *, rebuild=False):
            cutoff = self.clock.shift - timedelta(days=days)
            retired = [n for n, ended in self.ended.items() if n != self.live and ended <= cutoff]
            oldest = max((v for v, at in self.times.items() if at <= cutoff), default=1)
            done = tools.maintain(self.folder / "lake", days=days, releases=5, rebuild=rebuild)
            self.readable_from = max(self.readable_from, oldest)
            assert (done.retired, done.readable_from) == (retired, self.readable_from)
            for number in retired:  # a new release of the same space may come later
                del self.named[number], self.ended[number]
                self.tale.filled.clear()
                self.tale.second = self.tale.second.model_copy(update={"release": number + 1})
                self.filling = False
            self.tell()
            self.held = self.held.advanced()  # who holds an old one may lose it now

        @precondition(lambda self: self.live == 1)  # windows of the story are of release 1
        @rule(rebuild=st.booleans())
        def maintain(self, rebuild):
            self.maintained(14, rebuild=rebuild)

        @precondition(lambda self: self.live == 1)
        @rule(hours=st.sampled_from([0, 2, 30]))
        def maintain_and_let_go(self, hours):
            self.clock.move(hours=hours)
            then = time.time() - 3600 * 10_000
            for path in self.folder.rglob("*"):
                os.utime(path, (then, then))
            self.maintained(1)

        @rule()
        def purge(self):
            done = tools.purge(self.folder / "lake")
            self.tell()
            self.readable_from = self.purged_at = done.version
            self.held = Snapshot.open(self.root)

        filling = False
        """Whether the second release is there."""

        @precondition(lambda self: self.filling)
        @rule(second=st.booleans())
        def promote(self, second):
            number = self.tale.second.release if second else 1
            moved = releases.make_live(self.root, number, "promote", "run")
            if number == self.live:
                assert moved.version == self.tale.head.version
                return
            self.tell()
            self.ended[self.live] = self.clock.shift
            self.ended.pop(number, None)
            self.live = number
            self.named[number] = moved.version

        @rule()
        def roll_back(self):
            if self.live == 1:
                with pytest.raises(NoSuchRelease):
                    releases.previous(self.tale.head)
            else:
                assert releases.previous(self.tale.head).release == 1
                self.promote(second=False)

        @rule()
        def checkpoint(self):
            self.tale.head.checkpoint()

        @rule()
        def reopen(self):
            self.held = Snapshot.open(self.root)

        # what only looks

        @rule(at=st.integers(1, 60))
        def travel(self, at):
            newest = max(self.tale.told)
            if at > newest:
                with pytest.raises(VersionGone, match=f"no version {at}"):
                    Snapshot.open(self.root, at=at)
                return
            purged = self.purged_at is not None and at < self.purged_at
            kept = at >= self.readable_from or at in self.named.values()
            if purged or not kept:
                with pytest.raises(VersionGone, match="was purged" if purged else "older than what is kept"):
                    Snapshot.open(self.root, at=at)
            else:
                self.tale.holds(at)

        @rule()
        def ask(self):
            snapshot, columns = self.tale.head, "item_id, chunk_no, text, n, space_id"
            connection = sql.connect(self.folder / "lake", {"docs": snapshot}, embed, search)
            try:
                rows = sql.run(connection, f"SELECT {columns} FROM docs").to_pylist()
                versions = sql.run(connection, "SELECT version, items FROM docs_versions").to_pylist()
            finally:
                connection.close()
            items = self.tale.model.items
            chosen = items if self.live == 1 else {i: items[i] for i in self.tale.filled}
            found = {(r["item_id"], r["chunk_no"]): (r["text"], r["n"]) for r in rows}
            assert len(found) == len(rows)
            assert found == {
                (i, k): (t, item.n) for i, item in items.items() for k, t in enumerate(item.chunks)
            }
            assert {r["item_id"] for r in rows if r["space_id"]} == set(chosen), "others have no vector there"
            assert sorted(v["version"] for v in versions) == sorted(self.tale.told)
            assert {v["version"]: v["items"] for v in versions} == {
                v: len(told[0]) for v, told in self.tale.told.items()
            }

        @invariant()
        def whole(self):
            head = self.tale.head
            if head.version in (0, self.checked):
                return
            for version in range(self.checked + 1, head.version + 1):
                self.times[version] = self.clock.shift
            self.checked = head.version
            record = head.head
            assert record.live_release == self.live
            assert (record.readable_from, record.purged_at) == (self.readable_from, self.purged_at)
            assert head.history()["version"].to_pylist() == list(range(1, head.version + 1))
            self.tale.is_live(head)
            assert self.held.advanced().state == head.state

    return Collection


def embed(collection, text):
    raise AssertionError(NO_EMBED)


def search(collection, text, k):
    raise AssertionError(NO_EMBED)


def play(toy, tools, *, examples, steps):
    run_state_machine_as_test(
        machine(toy, tools),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],  # with a real lake a shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_collection_is_its_model(toy, tools):
    """Rows, totals, indexes, history and earlier versions equal the model after any few steps."""
    play(toy, tools, examples=2, steps=8)


@pytest.mark.slow
def test_a_collection_is_its_model_for_long(toy, tools):
    """The same for many more and longer stories."""
    play(toy, tools, examples=16, steps=30)


def test_the_model_is_not_blind(toy, tools, lake):
    """The comparison itself: a row too few, too many or other is noticed."""
    tale = tools.Story(toy, lake)
    tale.act({"a": ("put", "text", 1), "b": ("put", "more text", 2)})
    tale.fill(1.0)
    tale.is_live()
    rng = np.random.default_rng(1)
    for _ in range(3):
        item_id = ["a", "b"][int(rng.integers(2))]
        kept = tale.model.items.pop(item_id)
        with pytest.raises(AssertionError):
            tale.is_live()
        tale.model.items[item_id] = toy.Item(kept.text + "x", kept.n)
        with pytest.raises(AssertionError):
            tale.is_live()
        tale.model.items[item_id] = kept
    tale.is_live()
