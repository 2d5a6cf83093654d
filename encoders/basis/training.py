"""What the fits by gradient have in common: how many steps, at what rate, on how many threads."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WARM = 20
"""Steps over which the rate rises."""

_LOOK = 10
"""Steps after which the clock is looked at again."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread inside: the products are small, and sums then come out alike everywhere."""
    import torch  # seconds to import, and only fits by gradient need it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rates(steps: int, seconds: float) -> Iterator[float]:
    """A share of the learning rate for each step: a short rise, then half a cosine down to nothing.

    Steps that would last longer than `seconds` are left out, and the fall ends earlier.
    """
    began, step = time.perf_counter(), 0
    while step < steps:
        yield min(1.0, (step + 1) / _WARM) * (1 + math.cos(math.pi * step / steps)) / 2
        step += 1
        if step % _LOOK == 0:
            possible = seconds * step / max(time.perf_counter() - began, 1e-9)
            steps = min(steps, max(step, int(possible)))
