"""A user's own encoder: a Python class with `fingerprint`, `dim` and `encode(batch)`.

`fingerprint` is a string that the user changes when the vectors change: equal ones write into the same
space. `encode` takes a list and gives an array of shape (n, `dim`): for `modality: text` of strings, for
images of uint8 arrays (height, width, 3) whose shorter side has at most `size` pixels (512), for audio of
mono float32 arrays at `rate` samples a second (16,000). `encode_query(text)`, one vector, is wanted of
text encoders that treat queries otherwise, and makes an encoder of media joint. `max_tokens` (512) are
the words that a text encoder reads. The class is made without arguments, once in every worker.
"""

import hashlib
import importlib
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from encoders.errors import EncoderUnusable
from encoders.fake import FakeTokenizer
from encoders.protocol import Tokenizer
from encoders.spec import PYTHON, EncoderFacts, EncoderSpec

_MAX_TOKENS = 512
_SIZE = 512
_RATE = 16_000
_OURS = ("encoders", "flows", "storage", "tasks")
_LEFT_TO_THE_CLASS = ("layers", "truncate_dim", "document_prompt", "query_prompt", "revision")


def describe(spec: EncoderSpec) -> EncoderFacts:
    """What the class says of itself. Raises `EncoderUnusable`, which names the class."""
    kind, name = _class_of(spec), spec.model.removeprefix(PYTHON)
    for field in _LEFT_TO_THE_CLASS:
        if getattr(spec, field) is not None:
            raise EncoderUnusable(f"{name} is a class of your own: `{field}` is for it to do; leave it out")
    own = kind if isinstance(getattr(kind, "fingerprint", None), str) else _made(spec)
    fingerprint, dim = getattr(own, "fingerprint", None), getattr(own, "dim", None)
    if not isinstance(fingerprint, str) or not fingerprint:
        raise EncoderUnusable(
            f"{name}.fingerprint is {fingerprint!r}, expected a string that names its vectors"
        )
    if not isinstance(dim, int) or dim < 1:
        raise EncoderUnusable(f"{name}.dim is {dim!r}, expected the number of components of a vector")
    if not callable(getattr(kind, "encode", None)):
        raise EncoderUnusable(f"{name} has no method encode(batch); see `python:` in the README")
    joint = callable(getattr(kind, "encode_query", None))
    longest = min(int(getattr(own, "max_tokens", _MAX_TOKENS)), spec.max_tokens or sys.maxsize)
    text = spec.modality == "text"
    moving = f"{PYTHON}1:{spec.modality}:{dim}:{longest if text else 0}:{fingerprint}"
    made = hashlib.sha256(moving.encode()).hexdigest()
    plain = "".join(c for c in kind.__name__.lower() if c.isalnum() and c.isascii()) or "own"
    return EncoderFacts(
        fingerprint=made,
        space_id=f"{plain}_{dim}_{made[:8]}",
        dim=dim,
        max_tokens=longest if text else 0,
        tokenizer_hash=FakeTokenizer.hash if text else "",
        document_prompt="",
        query_prompt="",
        folder=None,
        tokenizer_folder=None,
        modality=spec.modality,
        queries=("text",) if text else (spec.modality, "text") if joint else (spec.modality,),
    )


class CustomPreparer:
    """Decoded media as the arrays that the class takes."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.least = int(getattr(_made(spec), "size", _SIZE)) if spec.modality == "image" else 0
        self.rate = int(getattr(_made(spec), "rate", _RATE)) if spec.modality == "audio" else 0

    def prepare(self, decoded: Any) -> np.ndarray:
        if not isinstance(decoded, Image.Image):
            return np.asarray(decoded, dtype=np.float32)
        scale = self.least / min(decoded.size)
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in decoded.size)
            decoded = decoded.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(decoded)


class CustomEncoder:
    """The class at work; raises `EncoderUnusable` where what it gives is not what it says."""

    def __init__(self, spec: EncoderSpec, facts: EncoderFacts) -> None:
        self.facts = facts
        self.tokenizer: Tokenizer = FakeTokenizer()
        self._name = spec.model.removeprefix(PYTHON)
        self._own = _made(spec)

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """Vectors, float32 (n, dim), as the class gives them."""
        return self._called("encode", list(inputs), (len(inputs), self.facts.dim))

    def encode_query(self, text: str) -> np.ndarray:
        """The vector of a text, float32 (dim,)."""
        if not callable(getattr(self._own, "encode_query", None)):
            first: np.ndarray = self.encode([text])[0]
            return first
        return self._called("encode_query", text, (self.facts.dim,))

    def _called(self, method: str, argument: Any, shape: tuple[int, ...]) -> np.ndarray:
        try:
            given = getattr(self._own, method)(argument)
        except Exception as error:
            raise RuntimeError(f"{self._name}.{method} failed: {type(error).__name__}: {error}") from error
        try:
            found = np.asarray(given, dtype=np.float32)
        except Exception as error:
            raise EncoderUnusable(
                f"{self._name}.{method} gave {type(given).__name__}, which is no array of numbers ({error})"
            ) from error
        if found.shape != shape:
            raise EncoderUnusable(f"{self._name}.{method} gave an array {found.shape}, expected {shape}")
        return found


def _class_of(spec: EncoderSpec) -> Any:
    """The class; its module lies beside `evervec.yaml`, or is installed."""
    place, _, name = spec.model.removeprefix(PYTHON).rpartition(":")
    if not place or not name:
        raise EncoderUnusable(f"python: {name!r}: expected module:Class, as in my_module:MyEncoder")
    path = Path(place)
    if path.name.partition(".")[0] in _OURS:
        raise EncoderUnusable(f"{place}:{name}: {path.name!r} is a package of Evervec itself; rename yours")
    if path.is_absolute() and str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # nothing there may hide a library
    try:
        module = importlib.import_module(path.name)
    except Exception as error:
        raise EncoderUnusable(
            f"{place}:{name}: its module cannot be imported ({type(error).__name__}: {error}). Expected it "
            "beside evervec.yaml, or installed here"
        ) from error
    kind = getattr(module, name, None)
    if not isinstance(kind, type):
        raise EncoderUnusable(f"{place}:{name}: the module {module.__file__} has no class {name!r}")
    return kind


@lru_cache(maxsize=4)
def _made(spec: EncoderSpec) -> Any:
    """The class at work: one for all that a process asks of it."""
    try:
        return _class_of(spec)()
    except EncoderUnusable:
        raise
    except Exception as error:
        name = spec.model.removeprefix(PYTHON)
        raise EncoderUnusable(f"{name}() failed: {type(error).__name__}: {error}") from error
