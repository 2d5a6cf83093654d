"""The steps of a commit and of the work around it at which a writer can die, by name."""

import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """Before or after a call of `target` (module:attribute) whose arguments are `like` this.

    `cases` are the jobs that come by, with the times at which to die there. At a `linked` step there is
    a version more than anybody was told of.
    """

    target: str
    like: Callable[..., bool] = lambda *args, **options: True
    before: bool = False
    linked: bool = False
    cases: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"ingest": (1, 2)})


def _into(folder):
    return lambda written, root, into, *tables: (
        into.startswith(folder) and any(table is not None and table.num_rows for table in tables)
    )


def _into_deletes(root, folder, *tables):
    return folder == "data/deletes"


def _mapped(root, folder, table):
    return folder.startswith("data/vectors") and "mapped" in table["origin"].to_pylist()


def _in(folder, suffix=""):
    return lambda file, *_, **__: Path(file).parent.name == folder and Path(file).name.endswith(suffix)


def _named(name):
    return lambda *_, **options: options.get("name") == name


ONCE = {"ingest": (1,)}
EVERY = {"ingest": (1, 2), "promote": (1,), "upgrade": (1, 3, 6)}
UPGRADE = {"upgrade": (1,)}
UPKEEP = {"maintain": (1,), "purge": (1,)}
TABLE = "lancedb.table:LanceTable"
PLACES = "storage.places"
STEPS = {
    # one window, in the order of the protocol
    "an items file is begun": Step(f"{PLACES}:sink", _in("items")),
    "the items file is written": Step("storage.transaction:_write", _into("data/items")),
    "the vectors file is written": Step("storage.transaction:_write", _into("data/vectors")),
    "the rejects file is written": Step("storage.transaction:_write", _into("data/rejects")),
    "the commit lock is taken": Step("storage.transaction:_masks", before=True),
    "the masks are computed": Step("storage.transaction:_masks"),
    "the deletes file is written": Step("storage.transaction:_write", _into("data/deletes")),
    "the index is opened": Step("storage.vectors:Index._at"),
    "rows left the index": Step(f"{TABLE}.delete"),
    "rows were added to an empty index": Step(f"{TABLE}.add", cases=ONCE),
    "rows were merged into the index": Step("lancedb.merge:LanceMergeInsertBuilder.execute"),
    "words are trained": Step(f"{TABLE}.create_index", _named("text_idx"), cases=ONCE),
    "vectors are trained": Step(f"{TABLE}.create_index", _named("vector_idx"), cases=ONCE),
    "a file of the index is synced": Step("storage.vectors:_synced", cases={"ingest": (1, 5, 12)}),
    "the index is synced": Step("storage.vectors:Index._named"),
    # the record of any commit
    "a lease is looked at": Step("storage.locks:_LocalLease.still_held", cases=EVERY),
    "the record is to be written": Step("storage.commits:Log.append", before=True, cases=EVERY),
    "the record's temporary file is written": Step(f"{PLACES}:_written", _in("_commits"), cases=EVERY),
    "the record is to be linked": Step("os:link", before=True, cases=EVERY),
    "the record is linked": Step("os:link", linked=True, cases=EVERY),
    "the temporary name is gone": Step("os:unlink", _in("_commits"), linked=True, cases=EVERY),
    "the folder of the log is synced": Step(f"{PLACES}:create", _in("_commits"), linked=True, cases=EVERY),
    "the copy's temporary file is written": Step(
        f"{PLACES}:_written", _in("_copies"), linked=True, cases=EVERY
    ),
    "the copy is written": Step(f"{PLACES}:replace", _in("_copies"), linked=True, cases=EVERY),
    "a part of the checkpoint is written": Step(
        f"{PLACES}:replace", _in("_checkpoints", ".parquet"), linked=True, cases={"ingest": (1, 2, 3, 4)}
    ),
    "the checkpoint is sealed": Step(f"{PLACES}:replace", _in("_checkpoints", ".json"), linked=True),
    "the window is committed": Step("storage.transaction:commit"),
    # maintenance, with windows that come in meanwhile; and the purge
    "a compacted file is written": Step(
        "storage.compaction:rewrite", cases={"maintain": (1, 2), "purge": (1,)}
    ),
    "a compaction is published": Step(
        "storage.compaction:compact", cases={"maintain": (1, 2), "purge": (1,)}
    ),
    "a generation is built": Step("storage.indexing:build", cases=UPKEEP),
    "a generation has caught up": Step("storage.generations:caught_up", cases=UPKEEP),
    "a generation is published": Step("storage.generations:make", cases={"maintain": (1,)}),
    "masks are joined and versions let go": Step("storage.maintenance:_settle", cases={"maintain": (1,)}),
    "a checkpoint has lost its seal": Step(
        f"{PLACES}:remove", _in("_checkpoints", ".json"), linked=True, cases={"maintain": (1,)}
    ),
    "the purge is published": Step("storage.maintenance:_clear", before=True, cases={"purge": (1,)}),
    "a file is swept": Step(f"{PLACES}:remove", _in("items"), cases={"maintain": (1, 2), "purge": (1, 2)}),
    "an index table is half removed": Step(
        "os:unlink", lambda *_, **options: "dir_fd" in options, cases={"maintain": (1, 4), "purge": (2, 5)}
    ),
    "the sweep is done": Step("storage.retention:sweep", cases=UPKEEP),
    "spool or reports are removed": Step(f"{PLACES}:remove_tree", _in("docs"), cases={"purge": (1, 2)}),
    "the purge has its checkpoint": Step("storage.snapshot:Snapshot.checkpoint", cases={"purge": (4,)}),
    "the past has lost a checkpoint": Step("storage.checkpoints:remove", cases={"purge": (4, 5)}),
    # upgrade, with windows that come in meanwhile
    "a basis is written": Step(f"{PLACES}:replace", _in("bases"), cases=UPGRADE),
    "releases are started": Step("storage.building:start", cases=UPGRADE),
    "a mapped file is written": Step(
        "storage.parquet:write",
        _mapped,
        cases={"upgrade": (1, 2, 4)},
    ),
    "rows of mapped files are counted": Step("storage.building:_origins", cases={"upgrade": (1, 2)}),
    "masks of mapped files are written": Step(
        "storage.parquet:write_some", _into_deletes, cases={"upgrade": (1, 2)}
    ),
    "mapped files are committed": Step("storage.building:append", cases={"upgrade": (1, 2)}),
    "a first generation is built": Step("storage.indexing:build", cases=UPGRADE),
    "a first generation has caught up": Step("storage.generations:caught_up", cases=UPGRADE),
    "a first generation is published": Step("storage.building:index", cases=UPGRADE),
    # promotion
    "the release is found": Step("storage.releases:find", cases={"promote": (1,)}),
    # only for what comes after: a writer died before, or the power goes next
    "a folder is made": Step("os:mkdir", cases={}),
    "the index is restored": Step(f"{TABLE}.restore", cases={}),
}


def arm(step, hit):
    """Make this process kill itself the `hit`-th time that it comes by a step."""
    module, _, path = step.target.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    whole, calls = getattr(owner, name), [0]

    def dying(*args, **options):
        alike = step.like(*args, **options)
        if step.before:
            calls[0] += alike
            _die(alike and calls[0] == hit)
            return whole(*args, **options)
        done = whole(*args, **options)
        calls[0] += alike
        _die(alike and calls[0] == hit)
        return done

    setattr(owner, name, dying)


def _die(now):
    if now:
        os.kill(os.getpid(), signal.SIGKILL)
