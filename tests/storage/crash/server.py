"""Writers that die: each a fresh fork of one process that has imported everything and touched nothing.

Reads requests from standard input, a JSON object a line: a function of this module by name, with its
arguments. Answers each with the exit status of the fork (negative: the signal that ended it) and with
all that it printed.
"""

import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import duckdb  # noqa: F401 - a fork would import it again and again
import lancedb.index
import lancedb.query  # noqa: F401

from storage import retention
from storage.errors import StorageError
from storage.snapshot import Snapshot
from tests.storage.crash import disk, faults, steps, work

SECONDS = 120
_PR_SET_PTRACER = 0x59616D61


def prepare(lake, job):
    """Make the lake as a job finds it."""
    work.JOBS[job].prepare(Path(lake))


def run(lake, job, step=None, hit=1):
    """Do a job; with a step, die there the `hit`-th time."""
    if step:
        steps.arm(steps.STEPS[step], hit)
    work.do(Path(lake), job)


def look(lake):
    return work.look(Path(lake))


def finished(lake, job):
    return work.finished(Path(lake), job)


def survive(trace, root, before, scratch, job, seed, step, every):
    """Cut the power after each `step`-th call of a trace; look at what is left.

    In each so many of these states do the job again.
    """
    count = finished = ran_ahead = unreadable = 0
    told = work.version_of(Path(before) / "lake")
    folder, held = Path(scratch), {}
    for last, files in disk.power_cuts(Path(trace).read_text(), root, before, seed, step):
        disk.write_down(files, folder, held)
        held = files
        lake = folder / "lake"
        work.age(lake, Path(before) / "lake")
        try:
            state = work.look(lake, after_power_cut=True)
            assert max(told, last) <= state["version"] <= max(told, last) + 1, (
                f"told of {last}, found {state}"
            )
            count += 1
            ran_ahead += state["version"] > max(told, last)
            unreadable += not state["index"]
            if count % every == 0:
                finished += 1
                work.do(lake, job)
                work.finished(lake, job)
                shutil.rmtree(folder)
                held = {}
        except BaseException:
            print(f"power cut {count}, kept in {folder}")
            raise
    return {"states": count, "finished": finished, "ran ahead": ran_ahead, "index": unreadable}


def tear(template, scratch, job):
    """Leave a manifest beside those that the log names, cut or zeroed at many lengths; look, and do the job.

    The end of it holds where LanceDB is to read on, so every byte there is tried.
    """
    lake, opened = Path(scratch) / "lake", {True: 0, False: 0}
    for how in ("cut", "zeroed"):
        newest = min(next(Path(template).glob("index/*/_versions")).glob("*.manifest"))
        content = newest.read_bytes()
        torn = newest.relative_to(template).with_name(f"{int(newest.stem) - 1:020d}.manifest")
        for at in sorted({*range(0, len(content), 97), *range(len(content) - 24, len(content))}):
            shutil.copytree(template, lake)
            (lake / torn).write_bytes(content[:at].ljust(len(content) if how == "zeroed" else 0, b"\0"))
            opened[work.look(lake, after_power_cut=True)["index"]] += 1
            if at % 5 == 0:
                work.do(lake, job)
                work.finished(lake, job)
            shutil.rmtree(lake)
    return opened[False]


def fail(template, scratch, job, step, full):
    """Do a job again and again, with an error at the first call, the `step`-th after it, and so on.

    A medium gives up once (EIO), or a disk stays `full` from then on (ENOSPC). Each run ends with an error,
    or did what it was to do in spite of it; the next one finishes.
    """
    lake, at, ended = Path(scratch) / "lake", 1, {"well": 0, "with an error": 0}
    while True:
        if Path(template).exists():
            shutil.copytree(template, lake)
        work.TOLD[:] = [work.version_of(lake)]
        failing = faults.Faults(lake, at, errno.ENOSPC if full else errno.EIO, for_good=full)
        try:
            with faults.striking(failing):
                work.do(lake, job)
        except (OSError, StorageError, RuntimeError) as error:
            if not failing.struck:
                raise
            ended["with an error"] += 1
            print(f"{at}: {type(error).__name__}: {error}")
        else:
            if not failing.struck:
                return ended
            ended["well"] += 1
            work.finished(lake, job, deep=False)
            print(f"{at}: well")
        assert work.TOLD[-1] <= work.look(lake)["version"] <= work.TOLD[-1] + 1
        work.do(lake, job)
        work.finished(lake, job, deep=at % 4 == 0)
        shutil.rmtree(lake)
        at += step


def command(arguments):
    """Run a program where this server sees its disks."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def fill(disk, leave):
    """Leave so many bytes free on a disk; what takes up the rest."""
    ballast = Path(disk) / "ballast"
    facts = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - leave))
    return str(ballast)


def _data(lake):
    return {path.relative_to(lake / "docs").as_posix() for path in lake.glob("docs/data/**/*.parquet")}


def squeeze(template, disk, job, step):
    """Do a job on a disk that has no room left, then `step` bytes, twice as many, until it fits.

    Each run that fails says so, and leaves the version before, whole; with room again the next one finishes.
    """
    lake, leave, failed = Path(disk) / "lake", 0, 0
    while True:
        shutil.copytree(template, lake)
        work.TOLD[:] = [work.version_of(lake)]
        ballast = Path(fill(disk, leave))
        try:
            work.do(lake, job)
        except (OSError, StorageError, RuntimeError) as error:
            print(f"{leave}: {type(error).__name__}: {error}")
        else:
            return failed
        failed += 1
        litter = _data(lake) - _data(Path(template)) - retention.needed_files(Snapshot.open(lake / "docs"))
        assert litter == set(), "what failed still takes up room"
        assert not list(lake.rglob(".*.tmp"))
        assert work.TOLD[-1] <= work.look(lake)["version"] <= work.TOLD[-1] + 1
        ballast.unlink()
        work.do(lake, job)
        work.finished(lake, job)
        shutil.rmtree(lake)
        leave += step


def _forked(function, arguments, strace=None):
    """Call a function in a fork; with `strace`, options of it, under its eyes."""
    with tempfile.TemporaryFile("w+") as output:
        watched, go = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(SECONDS)
                os.close(go)
                if strace:
                    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, -1, 0, 0, 0)
                    os.read(watched, 1)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
                print(json.dumps(function(**arguments)))
                code = 0
            except BaseException:  # noqa: BLE001 - said, and told by the exit code; a fork must not go on
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        tracer = _watch(child, strace) if strace else None
        os.close(go)
        os.close(watched)
        _, status = os.waitpid(child, 0)
        if tracer:
            tracer.communicate()
        output.seek(0)
        return {"status": os.waitstatus_to_exitcode(status), "output": output.read()}


def _watch(child, options):
    """strace, once it is attached to a process."""
    tracer = subprocess.Popen(["strace", "-f", *options, "-p", str(child)], stderr=subprocess.PIPE, text=True)
    said = ""
    while "attached" not in said:
        said = tracer.stderr.readline()
        if not said:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError("strace could not attach to the writer; see ptrace(2), `Ptrace access mode`")
    return tracer


def main():
    warnings.simplefilter("ignore", RuntimeWarning)  # LanceDB: forking is experimental; nothing ran before it
    work.small_scale()
    functions = {
        f.__name__: f for f in (prepare, run, look, finished, survive, tear, fail, command, squeeze, fill)
    }
    for line in sys.stdin:
        name, arguments, strace = json.loads(line)
        print(json.dumps(_forked(functions[name], arguments, strace)), flush=True)


if __name__ == "__main__":
    main()
