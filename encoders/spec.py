"""What an encoder and a chunking are: the settings a user writes, and the facts that follow from them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from encoders.errors import EncoderUnusable

Modality = Literal["text", "image", "audio"]
DEFAULT_CHUNK_TOKENS = 256


class EncoderSpec(BaseModel):
    """An encoder as declared in `evervec.yaml`; every field but the location of the model moves vectors.

    `model` is a hub id, a local folder, `package:NAME/PATH` (weights in an installed package) or
    `fake:DIM`. `layers` keeps only the first N transformer layers (early exit). `truncate_dim` keeps
    the leading components (and restores unit norm where the model normalises). Prompts left out are
    the model's own. `max_tokens` lowers the longest input, special tokens included.
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


@dataclass(frozen=True)
class MediaFacts:
    """What decoding says of an image (`width`, `height` in pixels as shown) or of audio (`seconds`, `rate`
    in samples per second, `channels`); `format` as the library calls it, in lower case (`jpeg`, `flac`).
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


class ChunkSpec(BaseModel):
    """Chunking as declared: `max_tokens` of one chunk with special tokens and prompt, `overlap` of two.

    Left out, `max_tokens` is 256 or the encoder's own limit, whichever is less.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=8)
    overlap: int = Field(default=32, ge=0)

    @model_validator(mode="after")
    def _overlap_leaves_room(self) -> "ChunkSpec":
        if self.max_tokens is not None and self.overlap > self.max_tokens // 2:
            raise ValueError(
                f"overlap {self.overlap} is more than half of max_tokens {self.max_tokens}; "
                f"give at most {self.max_tokens // 2}"
            )
        return self


@dataclass(frozen=True)
class Chunking:
    """A chunking pinned to an encoder's tokenizer: the same text gives the same spans for ever."""

    max_tokens: int
    overlap: int
    tokenizer_hash: str

    @classmethod
    def of(cls, spec: ChunkSpec, facts: EncoderFacts) -> "Chunking":
        """Resolve the defaults; `EncoderUnusable` if a chunk would be longer than the encoder reads."""
        most = spec.max_tokens or min(DEFAULT_CHUNK_TOKENS, facts.max_tokens)
        if most > facts.max_tokens:
            raise EncoderUnusable(
                f"chunk.max_tokens is {most}, but the encoder reads at most {facts.max_tokens} tokens "
                f"and would silently drop the rest; set chunk.max_tokens to {facts.max_tokens} or less"
            )
        return cls(most, min(spec.overlap, most // 2), facts.tokenizer_hash)

    @property
    def id(self) -> str:
        """Equal ids cut alike."""
        what = f"1:{self.max_tokens}:{self.overlap}:{self.tokenizer_hash}"
        return hashlib.sha256(what.encode()).hexdigest()
