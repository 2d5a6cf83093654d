"""Ray: when it is worth starting, how it is started, and every resource number of the project."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.errors import ResourcesUnfit, RunFailed
from tasks.project import Project, Resources

FEW_ITEMS = 500
"""Changed items that are always encoded in this process: Ray alone takes longer to start."""

IN_PROCESS_ITEMS = 40_000
"""Divided by the cores of the machine: items up to which one process (on the GPU, if there is one) is
the faster way. On two cores one process with two threads encoded 264 short texts a second, two actors
with one thread each 292, after some 15 s of starting Ray and loading the model in each.
"""

ACTOR_CPUS = 0.5
CHUNK_CPUS = 0.25
"""CPUs that Ray reserves. Under 1, for two 1-CPU actors on two CPUs leave nothing to feed them."""

_ACTOR_MEMORY = 2 * 2**30
_NO_PROGRESS_SECONDS = 120
_NO_PROGRESS_MEDIA_SECONDS = 6 * 3600
"""A recording of two hours is one call, and may take a learned model longer than it lasts."""

_MAX_RESTARTS = 2
_SMALL_MACHINE = 32 * 2**30
_OBJECT_STORE = 512 * 2**20


@dataclass(frozen=True)
class Pool:
    """The actors of one stream. `batch_items` is what one call of an encoder gets."""

    actors: int
    gpus: float
    batch_items: int
    threads: int | None
    max_restarts: int = _MAX_RESTARTS


def worth_starting(project: Project, resources: Resources, items: int) -> bool:
    """Whether to encode on Ray: on a cluster, with actors asked for, else only if that pays."""
    if items <= FEW_ITEMS:
        return False
    asked = project.ray_address is not None or resources.actors is not None
    return asked or items > IN_PROCESS_ITEMS // (os.cpu_count() or 1)


@contextmanager
def running(project: Project, resources: Resources, *, media: bool = False) -> Iterator[Pool]:
    """A connected Ray and the pool to run on it; one that was started here ends with the block."""
    import ray

    started = not ray.is_initialized()
    if started:
        logging.getLogger("ray").setLevel(logging.ERROR)
        with _muted():
            _start(project)
    _configure_ray_data(_NO_PROGRESS_MEDIA_SECONDS if media else _NO_PROGRESS_SECONDS)
    try:
        yield _pool(resources, ray.cluster_resources())
    finally:
        if started:
            ray.shutdown()


def _start(project: Project) -> None:
    import ray

    if project.ray_address is not None:
        try:
            ray.init(address=project.ray_address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunFailed(
                f"RAY_ADDRESS is {project.ray_address}, but there is no Ray to be reached ({error}). Correct "
                "it, or unset it to encode on this machine"
            ) from error
        return
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=_OBJECT_STORE if _memory() < _SMALL_MACHINE else None,
        runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "false"}},
    )


@contextmanager
def _muted() -> Iterator[None]:
    """Ray's C++ side greets on the process's stderr; what goes wrong in a start is raised anyway."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _pool(resources: Resources, available: dict[str, float]) -> Pool:
    gpus, actors = available.get("GPU", 0.0), resources.actors
    share = resources.gpus_per_actor
    if gpus > 0 and share != 0:
        share = share or min(1.0, gpus / (actors or gpus))
        actors = actors or max(1, int(gpus / share))
        if actors * share > gpus:
            raise ResourcesUnfit(
                f"resources ask for {actors} actors with {share:g} GPUs each, but Ray has {gpus:g}; "
                "lower `actors:` or `gpus_per_actor:` in evervec.yaml"
            )
        return Pool(actors, share, batch_items=2_048, threads=max(1, int(available.get("CPU", 1)) // actors))
    cpus = int(available.get("CPU", 1))
    fitting = int(min(cpus / ACTOR_CPUS, available.get("memory", _ACTOR_MEMORY) // _ACTOR_MEMORY))
    actors = actors or max(1, min(cpus, fitting))
    if actors * ACTOR_CPUS > cpus - CHUNK_CPUS:
        raise ResourcesUnfit(
            f"resources ask for {actors} actors, but Ray has {cpus} CPUs; lower `actors:` in evervec.yaml "
            f"to {int((cpus - CHUNK_CPUS) / ACTOR_CPUS)} or less"
        )
    return Pool(actors, 0.0, batch_items=256, threads=max(1, cpus // actors))


def _configure_ray_data(patience: int) -> None:
    """Quiet, and bounded: by default a worker that dies for good is retried for ever."""
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = patience
    context.print_on_execution_start = False


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
