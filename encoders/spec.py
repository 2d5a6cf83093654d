"""What an encoder and a chunking are: the settings a user writes, and the facts that follow from them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from encoders.errors import EncoderUnusable

Modality = Literal["text", "image", "audio"]
DEFAULT_CHUNK_TOKENS = 256
DEFAULT_CHUNK_SECONDS = 10.0
DEFAULT_OVERLAP_SECONDS = 1.0
BUILTIN: dict[str, Modality] = {"builtin:image-scatter": "image", "builtin:audio-logmel": "audio"}
"""Encoders of our own, which need no weights, and what they encode."""

PYTHON = "python:"
"""Begins the `model` of an encoder that is a Python class."""


class EncoderSpec(BaseModel):
    """An encoder as declared in `evervec.yaml`; every field but the location of the model moves vectors.

    `model` is a hub id, a local folder, `package:NAME/PATH` (weights in an installed package),
    `builtin:NAME` or `fake:DIM`; in its place `python: module:Class` is an encoder of the user's own.
    `layers` keeps only the first N transformer layers (early exit). `truncate_dim` keeps the leading
    components (and restores unit norm where the model normalises). Prompts left out are the model's
    own. `max_tokens` lowers the longest input, special tokens included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    modality: Modality = "text"
    revision: str | None = None
    layers: int | None = Field(default=None, ge=1)
    truncate_dim: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)
    document_prompt: str | None = None
    query_prompt: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, given: Any) -> Any:
        """`python: module:Class` is `model: python:module:Class`; a builtin knows its modality."""
        if not isinstance(given, dict):
            return given
        given = dict(given)
        if "python" in given:
            if "model" in given:
                raise ValueError("give `model:` or `python:`, not both")
            given["model"] = f"{PYTHON}{given.pop('python')}"
        model = given.get("model")
        if isinstance(model, str) and model.startswith("builtin:"):
            if model not in BUILTIN:
                raise ValueError(f"model {model!r}: there are {' and '.join(BUILTIN)}")
            if given.setdefault("modality", BUILTIN[model]) != BUILTIN[model]:
                raise ValueError(f"{model} encodes {BUILTIN[model]}, not {given['modality']}")
        return given


@dataclass(frozen=True)
class MediaFacts:
    """What decoding says of an image (`width`, `height`) or of audio (`seconds`, `rate`, `channels`).

    Sizes are in pixels as shown, `rate` in samples per second; `format` is the library's name of it in
    lower case (`jpeg`, `flac`).
    """

    format: str
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    rate: int | None = None
    channels: int | None = None


@dataclass(frozen=True)
class EncoderFacts:
    """What the model's files say, read without loading it.

    `fingerprint` is a SHA-256 over everything that moves vectors: equal fingerprints write into the
    same space. `space_id` is its readable name, safe in paths and SQL. `dim` is the length of a
    vector, `max_tokens` the longest input with special tokens. `tokenizer_hash` pins the chunking.
    """

    fingerprint: str
    space_id: str
    dim: int
    max_tokens: int
    tokenizer_hash: str
    document_prompt: str
    query_prompt: str
    folder: Path | None
    """Where the files are; None for an encoder without any."""
    tokenizer_folder: Path | None
    modality: Modality = "text"
    """Of the items that it encodes."""
    queries: tuple[Modality, ...] = ("text",)
    """Of the queries that it can put into the space of the items."""
    max_seconds: float = 0.0
    """The longest audio of one vector; 0: any."""


class ChunkSpec(BaseModel):
    """Chunking as declared: of text in tokens, of audio in seconds; an image is one chunk.

    `max_tokens` of one chunk, with special tokens and prompt (left out: 256, or the encoder's limit if
    that is less), and `overlap` of two. `seconds` of one window of audio (left out: 10, or the encoder's
    limit), and `overlap_seconds` of two (1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=8)
    overlap: int = Field(default=32, ge=0)
    seconds: float | None = Field(default=None, ge=0.1, le=3600)
    overlap_seconds: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> "ChunkSpec":
        if self.max_tokens is not None and self.overlap > self.max_tokens // 2:
            raise ValueError(
                f"overlap {self.overlap} is more than half of max_tokens {self.max_tokens}; "
                f"give at most {self.max_tokens // 2}"
            )
        longest = self.seconds or DEFAULT_CHUNK_SECONDS
        if self.overlap_seconds is not None and self.overlap_seconds > longest / 2:
            raise ValueError(
                f"overlap_seconds {self.overlap_seconds:g} is more than half of {longest:g} seconds; "
                f"give at most {longest / 2:g}"
            )
        return self

    def require_fitting(self, modality: Modality) -> None:
        """Raise `ValueError` if a setting is given that means nothing for what is chunked."""
        of = {"text": {"max_tokens", "overlap"}, "audio": {"seconds", "overlap_seconds"}}
        meant = of.get(modality, set())
        if unfit := sorted(self.model_fields_set - meant):
            raise ValueError(
                f"chunk.{unfit[0]} means nothing for {modality}"
                + (f"; give {' and '.join(sorted(meant))}" if meant else ", of which every item is one chunk")
            )


class Chunking(Protocol):
    """A chunking pinned: the same content gives the same spans for ever."""

    @property
    def id(self) -> str:
        """Equal ids cut alike."""
        ...

    @property
    def settings(self) -> dict[str, int | float]:
        """As `evervec.yaml` would say it."""
        ...


@dataclass(frozen=True)
class TokenChunking:
    """Text, cut by an encoder's tokenizer."""

    max_tokens: int
    overlap: int
    tokenizer_hash: str

    @property
    def id(self) -> str:
        what = f"1:{self.max_tokens}:{self.overlap}:{self.tokenizer_hash}"
        return hashlib.sha256(what.encode()).hexdigest()

    @property
    def settings(self) -> dict[str, int | float]:
        return {"max_tokens": self.max_tokens, "overlap": self.overlap}


@dataclass(frozen=True)
class WindowChunking:
    """Audio, cut into windows."""

    seconds: float
    overlap_seconds: float

    @property
    def id(self) -> str:
        return hashlib.sha256(f"windows:1:{self.seconds!r}:{self.overlap_seconds!r}".encode()).hexdigest()

    @property
    def settings(self) -> dict[str, int | float]:
        return {"seconds": self.seconds, "overlap_seconds": self.overlap_seconds}


@dataclass(frozen=True)
class NoChunking:
    """Images: each is one chunk."""

    @property
    def id(self) -> str:
        return hashlib.sha256(b"whole:1").hexdigest()

    @property
    def settings(self) -> dict[str, int | float]:
        return {}


def chunking_of(spec: ChunkSpec, facts: EncoderFacts) -> Chunking:
    """Resolve the defaults; `EncoderUnusable` if a chunk would be longer than the encoder takes."""
    if facts.modality == "image":
        return NoChunking()
    if facts.modality == "audio":
        return _windows(spec, facts)
    most = spec.max_tokens or min(DEFAULT_CHUNK_TOKENS, facts.max_tokens)
    if most > facts.max_tokens:
        raise EncoderUnusable(
            f"chunk.max_tokens is {most}, but the encoder reads at most {facts.max_tokens} tokens "
            f"and would silently drop the rest; set chunk.max_tokens to {facts.max_tokens} or less"
        )
    return TokenChunking(most, min(spec.overlap, most // 2), facts.tokenizer_hash)


def _windows(spec: ChunkSpec, facts: EncoderFacts) -> WindowChunking:
    longest = facts.max_seconds or float("inf")
    seconds = spec.seconds or min(DEFAULT_CHUNK_SECONDS, longest)
    if seconds > longest:
        raise EncoderUnusable(
            f"chunk.seconds is {seconds:g}, but the encoder hears at most {longest:g} seconds and would "
            f"silently drop the rest; set chunk.seconds to {longest:g} or less"
        )
    overlap = DEFAULT_OVERLAP_SECONDS if spec.overlap_seconds is None else spec.overlap_seconds
    return WindowChunking(float(seconds), float(min(overlap, seconds / 2)))
