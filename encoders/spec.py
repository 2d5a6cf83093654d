"""What an encoder is: the settings a user writes, and the facts that follow from the model's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["text"]


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
