"""What the files of a model of images or audio say, without loading it."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from encoders.errors import EncoderNotFound, EncoderUnusable
from encoders.families import FAMILIES, Family, family_of
from encoders.files import (
    QUERY_PROMPTS,
    HashCache,
    content_of,
    locate,
    modules_of,
    prompt_of,
    read_json,
    width_of_modules,
)
from encoders.spec import EncoderFacts, EncoderSpec

MEANING = 1
"""Raise when a change of this code, or of a rule in `families.py`, changes the vectors of the same files."""

AST_HOP = 160
"""Samples from one frame of an AST's spectrogram to the next."""

BACKEND = "pil"
"""Images are resized by Pillow whatever else is installed: torchvision's resizing moves vectors."""

_CONVERT = "transformers.AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
_FIRST = {"Transformer", "CLIPModel"}
_POSITIONS_BEFORE_TEXT = {"clap": 2}
"""RoBERTa, the text tower of CLAP, counts positions from behind that of the padding token."""


def describe(spec: EncoderSpec, hashes: HashCache) -> EncoderFacts:
    """Everything that can be known of an encoder of images or audio from its files.

    `max_tokens` is the longest query of a joint model, 0 without one. Raises `EncoderNotFound` and
    `EncoderUnusable`; the latter also where the model is one of another modality.
    """
    folder = locate(spec)
    modules = modules_of(folder)
    base = modules[0][1]
    config = read_json(base / "config.json")
    if not config:
        raise EncoderNotFound(
            f"{base} has no config.json: expected the folder of a model; correct `encoders:` in evervec.yaml"
        )
    family = _family(spec, modules[0][0], config)
    _require_processor(base, family)
    joint = family.rule == "joint"
    _require_no_idle_settings(spec, joint=joint)
    dim = width_of_modules(folder, modules) or _width(config, family)
    if spec.truncate_dim is not None and spec.truncate_dim > dim:
        raise EncoderUnusable(
            f"truncate_dim is {spec.truncate_dim}, but {spec.model} has {dim} dims; give at most {dim}"
        )
    dim = min(dim, spec.truncate_dim or dim)
    layers = _layers(spec, family, config)
    longest = _max_tokens(base, config) if joint else 0
    longest = min(longest, spec.max_tokens or longest)
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    query = prompt_of(spec.query_prompt, prompts, QUERY_PROMPTS) if joint else ""
    backend = BACKEND if family.modality == "image" else ""
    content = content_of(folder, modules, hashes, convert=_CONVERT)
    moving = [MEANING, family.modality, content, layers, dim, longest, query, backend]
    fingerprint = hashlib.sha256(json.dumps(moving).encode()).hexdigest()
    kind = "".join(c for c in str(config["model_type"]).lower() if c.isalnum())
    return EncoderFacts(
        fingerprint=fingerprint,
        space_id=f"{kind}{layers or ''}_{dim}_{fingerprint[:8]}",
        dim=dim,
        max_tokens=longest,
        tokenizer_hash="",  # pins the chunking of texts: media are not cut by it
        document_prompt="",
        query_prompt=query,
        folder=folder,
        tokenizer_folder=base if joint else None,
        modality=family.modality,
        queries=family.queries,
        max_seconds=_max_seconds(base, str(config["model_type"])),
    )


def _max_seconds(base: Path, kind: str) -> float:
    """The longest audio that a model of spectrograms of fixed length reads whole; 0 for any length."""
    own = read_json(base / "preprocessor_config.json") or read_json(base / "processor_config.json")
    own = own.get("feature_extractor", own)
    if kind == "clap":
        rate = own.get("sampling_rate", 48_000)
        return float(own.get("nb_max_samples", own.get("max_length_s", 10) * rate) / rate)
    if kind == "audio-spectrogram-transformer":
        return float(own.get("max_length", 1_024) * AST_HOP / own.get("sampling_rate", 16_000))
    return 0.0


def _family(spec: EncoderSpec, first: str, config: dict[str, Any]) -> Family:
    """The family of the model; refused unless it is one of the declared modality."""
    kind, family = config.get("model_type"), family_of(config)
    if first not in _FIRST:
        raise EncoderUnusable(
            f"{spec.model} begins with a {first} module, which takes no {spec.modality}; expected a "
            "sentence-transformers folder that begins with a Transformer, or a transformers one"
        )
    if family is None:
        known = ", ".join(n for n, f in FAMILIES.items() if f.modality == spec.modality)
        raise EncoderUnusable(
            f"{spec.model} is a {kind!r} model, which is not known to encode {spec.modality}; expected one "
            f"of {known}. If it encodes text, remove `modality: {spec.modality}` from the encoder"
        )
    if family.modality != spec.modality:
        raise EncoderUnusable(
            f"{spec.model} is a {kind!r} model, which encodes {family.modality}, but is declared as one of "
            f"{spec.modality}; set `modality: {family.modality}`, or point `model:` at another"
        )
    return family


def _require_processor(base: Path, family: Family) -> None:
    """Without its settings images or audio would be prepared by somebody else's."""
    part = "image_processor" if family.modality == "image" else "feature_extractor"
    own = read_json(base / "preprocessor_config.json")
    if own or part in read_json(base / "processor_config.json"):
        return
    raise EncoderUnusable(
        f"{base} has no preprocessor_config.json, which says how {family.modality} is prepared for this "
        "model; the model was copied in part: fetch it again"
    )


def _require_no_idle_settings(spec: EncoderSpec, *, joint: bool) -> None:
    """A setting that changes nothing is a misunderstanding."""
    idle = ["document_prompt"] if joint else ["document_prompt", "query_prompt", "max_tokens"]
    for name in idle:
        if getattr(spec, name) is not None:
            why = f"{spec.modality} takes no prompt" if name == "document_prompt" else "it encodes no text"
            raise EncoderUnusable(f"{name} does nothing with {spec.model}: {why}; remove it")


def _width(config: dict[str, Any], family: Family) -> int:
    """Length of the vectors where no sentence-transformers module says it."""
    if family.rule != "joint":
        path = ("hidden_sizes", -1) if family.staged else ("hidden_size",)
        return int(_setting(config, *path))
    if str(config["model_type"]).startswith("siglip"):
        return int(_setting(config, "vision_config", "hidden_size"))
    return int(_setting(config, "projection_dim"))


def _layers(spec: EncoderSpec, family: Family, config: dict[str, Any]) -> int | None:
    """`layers` of the spec; None if that is all of them, which is what is meant without it."""
    if spec.layers is None:
        return None
    if family.staged:
        raise EncoderUnusable(
            f"{spec.model} has its layers in stages, of which none can be left out; "
            f"remove `layers: {spec.layers}`"
        )
    tower = (f"{family.tower}_config",) if family.tower else ()
    depth = int(_setting(config, *tower, "num_hidden_layers"))
    if spec.layers > depth:
        raise EncoderUnusable(f"layers is {spec.layers}, but {spec.model} has {depth}; give at most that")
    return spec.layers if spec.layers < depth else None


def _max_tokens(base: Path, config: dict[str, Any]) -> int:
    """Tokens of the longest query, special ones included."""
    positions = int(_setting(config, "text_config", "max_position_embeddings"))
    positions -= _POSITIONS_BEFORE_TEXT.get(config["model_type"], 0)
    said = read_json(base / "tokenizer_config.json").get("model_max_length")
    return min(positions, int(said)) if said and said > 0 else positions


def _setting(config: dict[str, Any], *path: str | int) -> Any:
    """A setting of config.json; where the file leaves it out, the default of its architecture."""
    found = _at(config, path)
    if found is None:
        found = _at(_with_defaults(json.dumps(config)), path)
    if found is None:
        raise EncoderUnusable(
            f"config.json of this {config['model_type']!r} model does not say {'.'.join(map(str, path))}; "
            "fetch the model again"
        )
    return found


def _at(config: Any, path: tuple[str | int, ...]) -> Any:
    """What is found by going down `path`; None if it ends early."""
    try:
        for step in path:
            config = config[step]
    except (KeyError, IndexError, TypeError):
        return None
    return config


@lru_cache(maxsize=4)
def _with_defaults(config: str) -> dict[str, Any]:
    import transformers  # seconds: only for files that leave out what is asked

    library: Any = transformers
    settings = json.loads(config)
    try:
        whole: dict[str, Any] = library.AutoConfig.for_model(settings.pop("model_type"), **settings).to_dict()
    except (ValueError, TypeError, KeyError) as error:
        raise EncoderUnusable(f"config.json is none that transformers can read ({error})") from None
    return whole
