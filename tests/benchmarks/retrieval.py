"""Whether the built-in encoders of images and sounds find what is of the same class, beside simple baselines.

Each item of a labelled set is the query once, by cosine over all others: `top_1` and `p_at_10` are the shares
of its class in the first and in the first ten. In `others` those of its own face, light, voice or room may
not answer, in `all` they may. Only classes and groups on which no setting was chosen (`held`).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from encoders import logmel, scatter
from encoders.spec import EncoderSpec
from tests.benchmarks import labelled

Rows = Callable[[list[Any]], np.ndarray]


def measure(room: Path) -> dict[str, Any]:
    """Scores of every encoder on every set, and what the built-in ones encode in a second on one thread."""
    del room  # nothing is written
    threads = torch.get_num_threads()
    try:
        return {name: _of(labelled.SETS[name]("held"), encoders) for name, encoders in ENCODERS.items()}
    finally:
        torch.set_num_threads(threads)


def _of(made: labelled.Labelled, encoders: dict[str, Rows]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "items": len(made.items),
        "classes": len(set(made.label.tolist())),
        "groups": len(set(made.group.tolist())),
    }
    for name, rows in encoders.items():
        began = time.perf_counter()
        vectors = rows(made.items)
        took = time.perf_counter() - began
        found[name] = {
            "dim": vectors.shape[1],
            "others": _scores(vectors, made, own=False),
            "all": _scores(vectors, made, own=True),
        }
        if name == scatter.MODEL:
            found[name]["images_per_s"] = round(len(made.items) / took)
        if name == logmel.MODEL:
            found[name]["times_real_time"] = round(sum(map(len, made.items)) / labelled.RATE / took)
    return found


def _scores(vectors: np.ndarray, made: labelled.Labelled, *, own: bool) -> dict[str, float]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    if not own:
        alike[made.group[:, None] == made.group] = -np.inf
    hits = made.label[np.argsort(-alike, axis=1, kind="stable")[:, :10]] == made.label[:, None]
    return {"top_1": round(float(hits[:, 0].mean()), 3), "p_at_10": round(float(hits.mean()), 3)}


def _scatter(images: list[Any]) -> np.ndarray:
    facts = scatter.describe(EncoderSpec(model=scatter.MODEL, modality="image"))
    prepare = scatter.ScatterPreparer().prepare
    return scatter.ScatterEncoder(facts, "cpu", 1).encode([prepare(image) for image in images])


def _logmel(sounds: list[Any]) -> np.ndarray:
    facts = logmel.describe(EncoderSpec(model=logmel.MODEL, modality="audio"))
    prepare = logmel.LogMelPreparer().prepare
    return logmel.LogMelEncoder(facts, "cpu", 1).encode([prepare(sound) for sound in sounds])


def _pixels(images: list[Any]) -> np.ndarray:
    small = [np.asarray(image.resize((32, 32), Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(len(images), -1) / 255


def _grey(images: list[Any]) -> np.ndarray:
    return _pixels([image.convert("L") for image in images])


def _centred(images: list[Any]) -> np.ndarray:
    grey = _grey(images)
    return grey - grey.mean(axis=1, keepdims=True)


def _histogram(images: list[Any]) -> np.ndarray:
    """Square roots of the shares of 4 × 4 × 4 colours."""
    bins = [np.ravel_multi_index(tuple((np.asarray(i) // 64).reshape(-1, 3).T), (4, 4, 4)) for i in images]
    return np.sqrt(np.stack([np.bincount(b, minlength=64) / len(b) for b in bins]))


def _mfcc(sounds: list[Any]) -> np.ndarray:
    """Means over time of the cepstra 0 to 19 of 40 log-mel bands, frames of 25 ms every 10 ms."""
    settings = logmel.SETTINGS
    bands, table = logmel.mel(settings).T, logmel.cosines(20, settings.bands).T
    window = np.hanning(settings.window)
    found = []
    for sound in sounds:
        frames = np.lib.stride_tricks.sliding_window_view(sound, settings.window)[:: settings.hop] * window
        power = np.abs(np.fft.rfft(frames, settings.transform)) ** 2 @ bands
        found.append((np.log(power + 1e-10) @ table).mean(axis=0))
    return np.stack(found)


def _without_gain(sounds: list[Any]) -> np.ndarray:
    return _mfcc(sounds)[:, 1:]


_IMAGES: dict[str, Rows] = {
    scatter.MODEL: _scatter,
    "32x32 RGB pixels": _pixels,
    "32x32 grey pixels": _grey,
    "32x32 grey pixels less their mean": _centred,
    "histogram of 4x4x4 colours": _histogram,
}
_SOUNDS: dict[str, Rows] = {
    logmel.MODEL: _logmel,
    "means of 20 MFCC": _mfcc,
    "means of MFCC 1 to 19": _without_gain,
}
ENCODERS = {"glyphs": _IMAGES, "textures": _IMAGES, "words": _SOUNDS, "events": _SOUNDS}
