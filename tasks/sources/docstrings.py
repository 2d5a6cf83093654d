"""The documentation of the installed Python itself: a real corpus on every machine."""

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage import arrays
from tasks.errors import SourceUnusable
from tasks.project import DocstringsSource
from tasks.sources.protocol import BATCH_ITEMS, Pulled, rows_table

_NOT_LIBRARY = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


class Docstrings:
    """Docstrings of modules, classes and functions, read from the source files; nothing is imported.

    Ids are `module:qualified.name`; attributes are `package` and `kind`.
    """

    encoding: str | None = "utf-8"

    def __init__(self, spec: DocstringsSource) -> None:
        self._packages = spec.packages
        self.where = f"docstrings of {', '.join(spec.packages) or 'the standard library'}"

    def pull(self, since: str | None) -> Iterator[Pulled]:
        found: list[tuple[str, str, str, str]] = []
        position = 1
        for module, path in self._modules():
            for name, kind, text in _docstrings(path):
                found.append((f"{module}:{name}" if name else module, str(path), kind, text))
            if len(found) >= BATCH_ITEMS:
                yield _batch(found, position)
                position += len(found)
                found = []
        yield _batch(found, position, complete=True)

    def _modules(self) -> Iterator[tuple[str, Path]]:
        if not self._packages:
            root = Path(sysconfig.get_paths()["stdlib"])
            yield from _below(root, root, "")
        places = [(package, self._place(package)) for package in self._packages]
        for package, origin in places:
            if origin.name == "__init__.py":
                yield from _below(origin.parent, origin.parent, package)
            else:
                yield package, origin

    @staticmethod
    def _place(package: str) -> Path:
        found = find_spec(package) if package.isidentifier() else None
        if found is not None and found.origin == "frozen":  # os, io, codecs: their sources are there too
            return Path(sysconfig.get_paths()["stdlib"], f"{package}.py")
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            raise SourceUnusable(
                f"source.packages: no package {package!r} with Python sources is installed here; "
                "correct `packages:` in evervec.yaml, or install it"
            )
        return Path(found.origin)


def _below(root: Path, folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name.isidentifier() and path.name not in _NOT_LIBRARY:
            yield from _below(root, path, prefix)
        elif path.suffix == ".py":
            parts = [prefix, *path.relative_to(root).with_suffix("").parts]
            yield ".".join(p for p in parts if p and p != "__init__") or prefix, path


def _docstrings(path: Path) -> Iterator[tuple[str, str, str]]:
    """(qualified name, kind, text) of everything documented in a file; a repeated name gets #2, #3."""
    try:
        with warnings.catch_warnings():  # other people's invalid escapes
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # a template or a test of the parser, not a module
    seen: dict[str, int] = {}
    for name, kind, node in _documented(tree, ""):
        text = ast.get_docstring(node)
        if not text or not text.strip():
            continue
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}", kind, text


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: _Documented, prefix: str) -> Iterator[tuple[str, str, _Documented]]:
    if isinstance(node, ast.Module):
        yield "", "module", node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{child.name}" if prefix else child.name
            yield name, "class" if isinstance(child, ast.ClassDef) else "function", child
            if isinstance(child, ast.ClassDef):
                yield from _documented(child, name)


def _batch(found: list[tuple[str, str, str, str]], first: int, *, complete: bool = False) -> Pulled:
    ids = [i for i, _, _, _ in found]
    attributes = pa.StructArray.from_arrays(
        [
            arrays.strings([i.partition(":")[0].partition(".")[0] for i in ids]),
            arrays.strings([kind for _, _, kind, _ in found]),
        ],
        names=["package", "kind"],
    )
    content = arrays.binaries([text.encode("utf-8", "surrogatepass") for _, _, _, text in found])
    positions = arrays.from_numpy(np.arange(first, first + len(found)), pa.int64())
    uris = arrays.strings([uri for _, uri, _, _ in found])
    rows = rows_table(arrays.strings(ids), uris, content, positions, attributes)
    return Pulled(rows, complete=complete)
