"""kill -9 at every named step of a commit and of the work around it: whole versions, and no help needed."""

import signal

import pytest

from tests.storage.crash.steps import STEPS
from tests.storage.crash.work import JOBS

CASES = [
    pytest.param(job, step, hit, id=f"{job}: {step}, {hit}")
    for step, known in STEPS.items()
    for job, hits in known.cases.items()
    for hit in hits
]
QUICK = [
    ("ingest", "the vectors file is written", 1),
    ("ingest", "rows were merged into the index", 2),
    ("ingest", "the index is synced", 2),
    ("ingest", "the record is linked", 1),
    ("ingest", "the copy is written", 2),
    ("maintain", "a compaction is published", 1),
    ("purge", "the purge is published", 1),
    ("promote", "the record is linked", 1),
    ("upgrade", "mapped files are committed", 1),
    ("upgrade", "a first generation is built", 1),
]


def die(server, lake, job, step, hit=1):
    """Do a job until it kills itself at a step; the last version that it was told of, or that was there."""
    before = server.ask("look", lake=lake).answer["version"]
    done = server.ask("run", lake=lake, job=job, step=step, hit=hit)
    assert done.status == -signal.SIGKILL, done.output
    return max(before, done.told)


def recover(server, lake, job):
    """The same job again, which finishes by itself and takes over what locks were left."""
    left = [sign.name for sign in (lake / "docs/_locks").glob("*.owner.json")]
    done = server.ask("run", lake=lake, job=job)
    assert done.status == 0, done.output
    assert done.output.count("was taken over") == len(left)
    assert not list((lake / "docs/_locks").glob("*.owner.json"))
    return server.ask("finished", lake=lake, job=job).answer


def die_and_recover(server, lake, job, step, hit):
    told = die(server, lake, job, step, hit)
    seen = server.ask("look", lake=lake).answer
    assert seen["version"] == told + STEPS[step].linked
    if job == "ingest":
        assert seen["version"] == seen["offset"], "the source goes on from there"
    recover(server, lake, job)


@pytest.mark.parametrize(("job", "step", "hit"), QUICK)
def test_killed_where_it_matters_most(server, found, job, step, hit):
    """The property of the next test, at ten of its cases."""
    die_and_recover(server, found(job), job, step, hit)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "step", "hit"), CASES)
def test_killed_at_a_step(server, found, job, step, hit):
    """Readers see the version before or the one after, whole; the same job finishes, with nothing twice."""
    die_and_recover(server, found(job), job, step, hit)


@pytest.mark.slow
@pytest.mark.parametrize("step", [s for s, known in STEPS.items() if "ingest" in known.cases])
def test_killed_again_while_recovering(server, found, step):
    """A writer that dies where the one before it died leaves no more than that one did."""
    lake = found("ingest")
    die(server, lake, "ingest", step)
    again = server.ask("run", lake=lake, job="ingest", step=step)
    seen = server.ask("look", lake=lake).answer
    assert again.status in (-signal.SIGKILL, 0), again.output
    assert seen["version"] == seen["offset"]
    restoring = server.ask("run", lake=lake, job="ingest", step="the index is restored")
    assert restoring.status in (-signal.SIGKILL, 0), restoring.output
    recover(server, lake, "ingest")


@pytest.mark.slow
def test_killed_while_the_index_is_taken_back(server, found):
    """The index ran ahead of the log, and the writer that takes it back dies over it, twice."""
    lake = found("ingest")
    die(server, lake, "ingest", "the index is synced", 2)
    for _ in range(2):
        assert die(server, lake, "ingest", "the index is restored") == 1
    assert recover(server, lake, "ingest")["offset"] == JOBS["ingest"].offset
