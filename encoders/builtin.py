"""What the built-in encoders of media have in common: their facts follow from their settings alone."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from encoders.errors import EncoderUnusable
from encoders.spec import EncoderFacts, EncoderSpec, Modality

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MEANINGLESS = ("revision", "layers", "truncate_dim", "max_tokens", "document_prompt", "query_prompt")


def fingerprint(version: str, settings: "DataclassInstance") -> str:
    """SHA-256 over the version of the code that moves vectors and over every setting."""
    moving = json.dumps(asdict(settings), sort_keys=True)
    return hashlib.sha256(f"{version}:{moving}".encode()).hexdigest()


def facts(
    spec: EncoderSpec, modality: Modality, kind: str, dim: int, version: str, settings: "DataclassInstance"
) -> EncoderFacts:
    """The facts of a built-in encoder of `modality`, which has no files, tokens, prompts or layers.

    Raises `EncoderUnusable` where the spec asks for another modality or for something it has not.
    """
    if spec.modality != modality:
        raise EncoderUnusable(f"{spec.model} encodes {_PLURAL[modality]}; set `modality: {modality}`")
    asked = [name for name in _MEANINGLESS if getattr(spec, name) is not None]
    if asked:
        raise EncoderUnusable(f"{spec.model} is computed, not learned; remove `{'`, `'.join(asked)}`")
    whole = fingerprint(version, settings)
    return EncoderFacts(
        fingerprint=whole,
        space_id=f"{modality}_{kind}_{dim}_{whole[:8]}",
        dim=dim,
        max_tokens=0,
        tokenizer_hash="",
        document_prompt="",
        query_prompt="",
        folder=None,
        tokenizer_folder=None,
        modality=modality,
        queries=(modality,),
    )


def refuse_text(model: str, modality: Modality) -> EncoderUnusable:
    """What to raise where a text is to be put into a space that has none."""
    return EncoderUnusable(
        f"{model} embeds {_PLURAL[modality]} only, so that a text has no place in its space; "
        f"query with {_ONE[modality]}, or declare an encoder that embeds texts as well"
    )


_PLURAL: dict[Modality, str] = {"text": "texts", "image": "images", "audio": "audio"}
_ONE: dict[Modality, str] = {"text": "a text", "image": "an image", "audio": "a sound"}
