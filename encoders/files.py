"""The files of a model: where they are, what they say, and a fingerprint of what they do.

Nothing here loads a model: a run without changes must know the space it writes into in milliseconds.
"""

import contextlib
import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from encoders.errors import EncoderNotFound, EncoderUnusable
from encoders.families import family_of
from encoders.spec import EncoderFacts, EncoderSpec

MEANING = 1
"""Raise when a change of this code changes the vectors that the same files give."""

_TEXTUAL = {".json", ".txt", ".model", ".jinja"}
_WEIGHTS = ".safetensors"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt"}
_UNUSED = {"data_config.json", "model_args.json", "train_results.json", "trainer_state.json"}
_NAMES_AND_VERSIONS = {"_name_or_path", "name_or_path", "transformers_version", "__version__"}
_DOCUMENT_PROMPTS, QUERY_PROMPTS = ("document", "passage", "corpus"), ("query",)
_DEFAULT_MAX_TOKENS = 512


def locate(spec: EncoderSpec) -> Path:
    """The local folder of the model's files; `EncoderNotFound` says what was looked for and where.

    A hub id is taken from the local hub cache, and downloaded once if it is not there.
    """
    model = spec.model
    if model.startswith("package:"):
        return _in_package(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise EncoderNotFound(
            f"model {model!r}: there is no such folder. Expected a folder with the files of a "
            "sentence-transformers or transformers model, a hub id (ORG/NAME), package:NAME/PATH or "
            "fake:DIM; correct `encoders:` in evervec.yaml"
        )
    return _from_hub(model, spec.revision)


def describe(spec: EncoderSpec, hashes: "HashCache") -> EncoderFacts:
    """Everything that can be known of a text encoder from its files."""
    folder = locate(spec)
    modules = modules_of(folder)
    base = modules[0][1]
    config = read_json(base / "config.json")
    if not config and modules[0][0] != "StaticEmbedding":
        raise EncoderNotFound(
            f"{base} has no config.json: expected the folder of a model; correct `encoders:` in evervec.yaml"
        )
    family = family_of(config)
    if family is not None:
        raise EncoderUnusable(
            f"{spec.model} is a {config['model_type']!r} model, which encodes {family.modality}, but is "
            f"declared as one of text; add `modality: {family.modality}`, or point `model:` at another"
        )
    prompts = read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
    dim = width_of_modules(folder, modules) or _width(folder, config)
    if spec.truncate_dim is not None and spec.truncate_dim > dim:
        raise EncoderUnusable(
            f"truncate_dim is {spec.truncate_dim}, but {spec.model} has {dim} dims; give at most {dim}"
        )
    depth = config.get("num_hidden_layers", config.get("n_layers", config.get("num_layers")))
    if spec.layers is not None and (depth is None or spec.layers > depth):
        raise EncoderUnusable(f"layers is {spec.layers}, but {spec.model} has {depth}; give at most that")
    dim = min(dim, spec.truncate_dim or dim)
    document = prompt_of(spec.document_prompt, prompts, _DOCUMENT_PROMPTS)
    query = prompt_of(spec.query_prompt, prompts, QUERY_PROMPTS)
    longest = _max_tokens(base, config)
    longest = min(longest, spec.max_tokens or longest)
    layers = spec.layers or depth
    moving = [MEANING, content_of(folder, modules, hashes), layers, dim, longest, document, query]
    fingerprint = hashlib.sha256(json.dumps(moving).encode()).hexdigest()
    kind = "".join(c for c in str(config.get("model_type", "model")).lower() if c.isalnum())
    return EncoderFacts(
        fingerprint=fingerprint,
        space_id=f"{kind}{layers or ''}_{dim}_{fingerprint[:8]}",
        dim=dim,
        max_tokens=longest,
        tokenizer_hash=hashes.sha256(base / "tokenizer.json"),
        document_prompt=document,
        query_prompt=query,
        folder=folder,
        tokenizer_folder=base,
    )


class HashCache:
    """SHA-256 of files, remembered by path, size and time: weights are read once, not at every run."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        try:
            self._known: dict[str, list[Any]] = read_json(path) if path else {}
        except EncoderUnusable:
            self._known = {}  # torn: only a cache

    def sha256(self, file: Path) -> str:
        """Hash of a file's content. Raises `EncoderUnusable` if it is missing."""
        try:
            facts = file.stat()
        except OSError as error:
            raise EncoderUnusable(f"{file} is needed and cannot be read ({error.strerror})") from None
        key, stamp = str(file.resolve()), [facts.st_size, facts.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != stamp:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            known = self._known[key] = [*stamp, digest]
            self._save()
        return str(known[2])

    def _save(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # only a cache: a folder that cannot be written to hashes again
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._path)


def _in_package(model: str) -> Path:
    name, _, inner = model.removeprefix("package:").partition("/")
    found = find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise EncoderNotFound(
            f"model {model!r}: no package {name!r} is installed here. Install it with "
            f"`pip install {name.replace('_', '-')}`, or correct `encoders:` in evervec.yaml"
        )
    folder = Path(found.submodule_search_locations[0]) / inner
    if not folder.is_dir():
        raise EncoderNotFound(
            f"model {model!r}: package {name} is installed, but has no folder {inner!r}; "
            "correct `encoders:` in evervec.yaml"
        )
    return folder


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # only hub ids need it

    try:
        return _fetched(model, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return _downloaded(model, revision)
    except HFValidationError:
        raise EncoderNotFound(
            f"model {model!r} is neither a folder here nor a possible hub id (ORG/NAME); correct `encoders:` "
            "in evervec.yaml"
        ) from None


def _downloaded(model: str, revision: str | None) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _fetched(model, revision, local_files_only=False)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EncoderNotFound(
            f"model {model!r} is neither a folder here nor to be had from the model hub "
            f"({type(error).__name__}). Check the name and the network, or point `model:` at a folder"
        ) from None


def _fetched(model: str, revision: str | None, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
    return Path(
        snapshot_download(model, revision=revision, allow_patterns=wanted, local_files_only=local_files_only)
    )


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """(class name, folder) of each sentence-transformers module; a bare transformer has none listed."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return [("Transformer", folder)]
    entries: list[dict[str, str]] = _parsed(listed)
    return [(e["type"].rpartition(".")[2], folder / e["path"]) for e in entries]


def width_of_modules(folder: Path, modules: list[tuple[str, Path]]) -> int | None:
    """Length of the vectors as the last module says that changes it; None if none does."""
    for kind, path in reversed(modules):
        if kind == "StaticEmbedding":
            return _embedding_width(path / "model.safetensors")
        inside = read_json(path / "config.json") if path != folder else {}
        width = inside.get("out_features") if kind == "Dense" else None
        if kind == "Pooling":
            width = inside.get("embedding_dimension", inside.get("word_embedding_dimension"))
            modes = inside.get("pooling_mode")
            flags = sum(bool(v) for k, v in inside.items() if k.startswith("pooling_mode_"))
            width = width and width * max(1, flags if not isinstance(modes, list | tuple) else len(modes))
        if width:
            return int(width)
    return None


def _width(folder: Path, config: dict[str, Any]) -> int:
    """The transformer's own width."""
    width = config.get("hidden_size", config.get("dim", config.get("d_model")))
    if not width:
        raise EncoderUnusable(f"{folder}/config.json does not say how wide its vectors are (hidden_size)")
    return int(width)


def _embedding_width(weights: Path) -> int:
    """Columns of the one matrix of a static embedding, from the header of its safetensors file."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(next(t["shape"][1] for t in header.values() if len(t.get("shape", ())) == 2))


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    said = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    tokenizer = read_json(folder / "tokenizer_config.json").get("model_max_length")
    positions = config.get("max_position_embeddings")
    limits = [int(x) for x in (said, tokenizer, positions) if x and 0 < x < 10**6]
    return (int(said) if said else min(limits)) if limits else _DEFAULT_MAX_TOKENS


def content_of(
    folder: Path,
    modules: list[tuple[str, Path]],
    hashes: HashCache,
    *,
    convert: str = "sentence_transformers.SentenceTransformer(FOLDER).save(NEW_FOLDER)",
) -> list[list[str]]:
    """(role, hash) of every file that can move a vector; its place and the weights' names do not count.

    Other weights than safetensors raise `EncoderUnusable`, with `convert` as the way out.
    """
    directories = sorted({folder, *(path for _, path in modules if path.is_dir())})
    found = []
    for directory in directories:
        suffixes = {file.suffix for file in directory.iterdir()}
        if _WEIGHTS not in suffixes and (directory == modules[0][1] or suffixes & _PICKLES):
            raise EncoderUnusable(
                f"{directory} has no *.safetensors: other weight formats can run code when loaded and are "
                f"refused. Convert it: {convert}"
            )
        for file in sorted(directory.iterdir()):
            if file.suffix == _WEIGHTS:
                found.append([str(directory.relative_to(folder)), hashes.sha256(file)])
            elif file.suffix in _TEXTUAL and file.name not in _UNUSED:
                found.append([str(file.relative_to(folder)), _textual_hash(file)])
    return sorted(found)


def _textual_hash(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".json":
        document = _parsed(file)
        if isinstance(document, dict):
            document = {k: v for k, v in document.items() if k not in _NAMES_AND_VERSIONS}
        content = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def prompt_of(own: str | None, prompts: dict[str, str], names: tuple[str, ...]) -> str:
    """The spec's own prompt, or the first that the model has under one of the names."""
    if own is not None:
        return own
    return next((prompts[n] for n in names if prompts.get(n)), "")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none. Raises `EncoderUnusable` if it is torn."""
    document = _parsed(path) if path.is_file() else {}
    return document if isinstance(document, dict) else {}


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise EncoderUnusable(
            f"{path} is not valid JSON ({error}); the model was copied in part: fetch it again"
        ) from None
