"""Linear maps of queries that are fitted to rank, not to coincide.

A query of the new space meets stored rows of the old one. It does not count where it lands there, but that
its products with old rows a order them as its products with their new vectors b would. What is added to the
score of every row orders nothing, so neither map has an offset.

Tried on docstrings, the whole MiniLM's queries on rows of its third layer, 4,000 pairs: share of the gap
between the two in P@10 that is closed, R@10 against the neighbours of the whole, and both after the first
200 have been ranked by the whole:

    old queries                 0.00  0.15    0.64  0.40
    ridge regression b → a      below zero
    Procrustes                  0.32  0.28    0.87  0.74
    … centred                   0.23  0.26    0.82  0.70
    adjoint                     0.29  0.32    0.92  0.87
    … listwise                  0.51  0.37    0.96  0.90
    … τ of 0.02 for 0.05        0.48  0.36    0.96  0.88
    … with a hidden layer       0.52  0.37    0.96  0.90
"""

from typing import TYPE_CHECKING

import numpy as np

from encoders.basis.pairs import Pairs, unit
from encoders.basis.regression import ridge
from encoders.basis.training import one_thread, rates

if TYPE_CHECKING:
    import torch

_STEPS, _QUERIES, _ROWS = 300, 256, 1024
_RATE = 0.02
"""Of Adam, over the root mean square of the weights."""


def adjoint(pairs: Pairs) -> dict[str, np.ndarray]:
    """The transpose of the ridge regression of rows, from targets to sources.

    With b ≈ W a + c the score q · b is (Wᵀ q) · a + q · c: the expected new score of a row, given its old
    vector.
    """
    weight = ridge(_turned(pairs)).weight.T
    return _tensors(weight)


@one_thread()
def listwise(pairs: Pairs, seed: int, seconds: float) -> dict[str, np.ndarray]:
    """The map with the least loss of `Lists`: its scores order old rows most like new ones do.

    Begins at `adjoint`; by Adam.
    """
    import torch  # seconds to import, and only fits by gradient need it

    lists = Lists(pairs, seed)
    start = torch.from_numpy(adjoint(pairs)["weight"])
    weight = (start * lists.scale_of(lists.new @ start)).requires_grad_()
    rate = _RATE * float(weight.detach().square().mean().sqrt())
    optimizer = torch.optim.Adam([weight], betas=(0.9, 0.98))
    for share in rates(_STEPS, seconds):
        optimizer.param_groups[0]["lr"] = rate * share
        queries = lists.draw(_QUERIES)
        optimizer.zero_grad()
        torch.autograd.backward(lists.loss(queries, lists.new[queries] @ weight))
        optimizer.step()
    return _tensors(weight.detach().numpy())


class Lists:
    """Lists of rows drawn at random, and how far mapped queries are from ordering them as they should be.

    The loss is the divergence of softmax(m · a / τ) from softmax(q · b / τ) over a list, of mapped queries m
    (ListNet: Cao et al. 2007); τ is half the standard deviation of q · b.
    """

    def __init__(self, pairs: Pairs, seed: int) -> None:
        import torch  # seconds to import, and only fits by gradient need it

        self._generator = torch.Generator().manual_seed(seed)
        self.new, self.old = torch.from_numpy(unit(pairs.sources)), torch.from_numpy(pairs.targets)
        some = self.draw(_ROWS)
        self._spread = float((self.new[some] @ self.new[some].T).std())

    def draw(self, count: int) -> "torch.Tensor":
        """Numbers of pairs drawn at random, each at most once."""
        import torch  # as above

        return torch.randperm(len(self.new), generator=self._generator)[:count]

    def scale_of(self, mapped: "torch.Tensor") -> float:
        """By how much mapped queries, one of each pair, must grow for their scores to vary as the new do."""
        some = self.draw(_ROWS)
        return self._spread / float((mapped[some] @ self.old[some].T).std())

    def loss(self, queries: "torch.Tensor", mapped: "torch.Tensor") -> "torch.Tensor":
        """The mean divergence, over a list, of mapped queries and the numbers of their pairs."""
        from torch.nn.functional import kl_div, log_softmax, softmax

        rows, sharpness = self.draw(_ROWS), 2 / self._spread
        found = log_softmax(sharpness * (mapped @ self.old[rows].T), dim=1)
        wanted = softmax(sharpness * (self.new[queries] @ self.new[rows].T), dim=1)
        return kl_div(found, wanted, reduction="batchmean")


def _turned(pairs: Pairs) -> Pairs:
    """From rows to queries: targets to sources of unit norm, without side features."""
    return Pairs(pairs.targets, pairs.side[:, :0], unit(pairs.sources))


def _tensors(weight: np.ndarray) -> dict[str, np.ndarray]:
    return {"weight": weight.astype(np.float32), "offset": np.zeros(weight.shape[1], np.float32)}
