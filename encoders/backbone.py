"""What loaded models of text, images and audio have in common."""

from typing import Any

import numpy as np
import torch

from encoders.errors import BadVector, EncoderUnusable

SAME_SPACE = 0.9999
"""Least cosine to fp32 on the golden inputs at which another precision still writes the same space."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Norm 1 in float32: bf16 rounding and truncation both leave something else. Zero stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return scaled


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row cosine of two (n, dim) arrays; raises `BadVector` where a row has no direction."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not np.all(norms > 0):
        raise BadVector("the encoder gives zero or NaN vectors for ordinary input")
    found: np.ndarray = (a * b).sum(axis=1) / norms
    return found


def keep_layers(backbone: Any, layers: int) -> None:
    """Cut the transformer off after its first `layers` layers (an early exit).

    Raises `EncoderUnusable` unless it has exactly one stack of them.
    """
    depth = backbone.config.num_hidden_layers
    stacks = [
        (owner, name, child)
        for owner in backbone.modules()
        for name, child in owner.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == depth
    ]
    if len(stacks) != 1:
        raise EncoderUnusable(f"`layers`: expected one stack of {depth} layers, found {len(stacks)}")
    owner, name, stack = stacks[0]
    setattr(owner, name, stack[:layers])
    backbone.config.num_hidden_layers = layers


def quiet_transformers() -> None:
    """No progress bars and no warnings of the library on the terminal."""
    from transformers.utils import logging as transformers_logging

    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
