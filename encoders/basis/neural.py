"""Networks: a ridge regression, and beside it a hidden layer that learns what the regression leaves.

The hidden layer reads the leading principal components of the inputs, half whitened, which are folded into
its weights afterwards. It is small and held down hard, by dropout and weight decay: pairs are few.
"""

import math

import numpy as np

from encoders.basis.pairs import Pairs
from encoders.basis.regression import Ridge, ridge
from encoders.basis.training import one_thread, rates

_HIDDEN, _COMPONENTS = 512, 384
_EPOCHS, _BATCH, _RATE = 30, 256, 1e-3
_DROPOUT, _DECAY = 0.4, 1.0

_RELATIONAL = 100.0
"""Weight of the relational loss: differences of similarities are some hundredths, their squares less."""


@one_thread()
def network(pairs: Pairs, seed: int, seconds: float, *, relational: bool) -> dict[str, np.ndarray]:
    """A residual network with GELU: linear weights from `ridge`, hidden ones by AdamW.

    Minimises 1 − cos to the targets; `relational` adds the mean square of (m − t) · t' over the mapped m,
    their targets t and all targets t' of a batch: by how much the scores of a mapped vector are off for
    queries like t' (Embedding-Converter, Yoon & Arik, ACL 2025, has losses of this kind).
    """
    import torch  # seconds to import, and only fits by gradient need it
    from torch.nn.functional import gelu, normalize

    draw = torch.Generator().manual_seed(seed)
    start = ridge(pairs)
    centre, axes = _components(pairs, start)
    inputs = torch.from_numpy((pairs.inputs - centre) @ axes)
    base = torch.from_numpy((pairs.inputs @ start.weight + start.offset).astype(np.float32))
    targets = torch.from_numpy(pairs.targets)
    into = torch.randn(axes.shape[1], _HIDDEN, generator=draw).div_(math.sqrt(axes.shape[1]))
    shift, out = torch.zeros(_HIDDEN), torch.zeros(_HIDDEN, targets.shape[1])
    for tensor in (into, shift, out):
        tensor.requires_grad_()
    decayed = [{"params": [into, out], "weight_decay": _DECAY}, {"params": [shift], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decayed, betas=(0.9, 0.98))
    for share in rates(_EPOCHS * math.ceil(len(pairs) / _BATCH), seconds):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * share
        batch = torch.randperm(len(pairs), generator=draw)[:_BATCH]
        hidden = gelu(inputs[batch] @ into + shift, approximate="tanh")
        kept = torch.rand(hidden.shape, generator=draw) >= _DROPOUT
        mapped = normalize(base[batch] + (hidden * kept / (1 - _DROPOUT)) @ out, dim=1)
        true = targets[batch]
        loss = 1 - (mapped * true).sum(dim=1).mean()
        if relational:
            loss = loss + _RELATIONAL * ((mapped - true) @ true.T).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    reads = axes @ into.detach().numpy()
    return start.tensors() | {
        "gelu_weight": reads,
        "gelu_offset": shift.detach().numpy() - centre @ reads,
        "gelu_out": out.detach().numpy(),
    }


def _components(pairs: Pairs, start: Ridge) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the inputs, and axes (d + k, components): principal ones, half whitened.

    Side features are scaled as for `start`. Components have a mean square of 1 together.
    """
    inputs = pairs.inputs.astype(np.float64)
    centre = inputs.mean(axis=0)
    inputs = (inputs - centre) * start.scales
    values, vectors = np.linalg.eigh(inputs.T @ inputs / len(pairs))
    values, vectors = values[::-1][:_COMPONENTS], vectors[:, ::-1][:, :_COMPONENTS]
    present = values > 1e-6 * values[0]
    values, vectors = values[present], vectors[:, present]
    axes = start.scales[:, None] * vectors / values**0.25
    axes /= np.sqrt(np.sqrt(values).mean())
    return centre.astype(np.float32), axes.astype(np.float32)
