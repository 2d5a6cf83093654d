"""The tree rule: which package may import what, and that every name in it explains itself."""

import ast
import importlib
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "encoders", "storage")
ALLOWED = {
    "lancedb": "storage/",
    "duckdb": "storage/",
    "pyarrow.parquet": "storage/",
    "deltalake": "storage/",
    "obstore": "storage/",
    "ray": "tasks/",
    "torch": "encoders/",
    "transformers": "encoders/",
    "sentence_transformers": "encoders/",
    "tokenizers": "encoders/",
    "prefect": "flows/deployed.py",
}
BELOW = {
    "flows": {"tasks", "encoders", "storage"},
    "tasks": {"encoders", "storage"},
    "encoders": set(),
    "storage": set(),
}
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Every module that is imported anywhere in the file, inside functions too: dotted names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and isinstance(node.args[0], ast.Constant)  # else it is the user's
        ):
            yield ast.literal_eval(node.args[0])


def is_below(module, parent):
    return module == parent or module.startswith(parent + ".")


def test_there_is_something_to_check():
    """The walk below finds the files, so that none of these tests passes for lack of them."""
    assert len(MODULES) > 30
    assert {name_of(p).partition("/")[0] for p in MODULES} == set(PACKAGES)
    assert "duckdb" in set(imports(ROOT / "storage" / "sql.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_the_one_of_this_tree(package):
    """The general name of a package leads here, and to no other installed distribution."""
    module = importlib.import_module(package)
    assert Path(module.__file__) == ROOT / package / "__init__.py"
    providers = importlib.metadata.packages_distributions().get(package, [])
    assert set(providers) <= {"evervec"}


@pytest.mark.parametrize("library", ALLOWED)
def test_a_heavy_library_is_imported_in_one_folder(library):
    """Each heavy dependency has its one place, lazy imports counted."""
    users = {name_of(p) for p in MODULES if any(is_below(m, library) for m in imports(p))}
    assert users, "nobody imports it: the rule is about a name that is gone"
    assert {u for u in users if not u.startswith(ALLOWED[library])} == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards(package):
    """flows → tasks → (encoders | storage); encoders and storage never see each other."""
    forbidden = set(PACKAGES) - BELOW[package] - {package}
    wrong = [
        f"{name_of(path)} imports {module}"
        for path in MODULES
        if name_of(path).startswith(package + "/")
        for module in imports(path)
        if module.partition(".")[0] in forbidden
    ]
    assert wrong == []


def test_imports_are_absolute():
    """A relative import would hide from the rules above."""
    relative = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_environment_is_read_in_one_file():
    """os.environ, os.getenv and the like stand in flows/settings.py; flows/quiet.py only sets defaults."""
    users = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "environb", "getenv", "putenv"))
        or (isinstance(node, ast.Attribute) and node.attr == "expandvars")
    }
    assert users == {"flows/quiet.py", "flows/settings.py"}
    quiet = next(path for path in MODULES if name_of(path) == "flows/quiet.py")
    assert re.findall(r"os\.\w+(?:\.\w+)?", quiet.read_text()) == ["os.environ.setdefault"]


def test_only_flows_print():
    """What a person reads on the terminal is said by the command line, never by a step or a store."""
    printers = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert {p for p in printers if not p.startswith("flows/")} == set()
    assert printers, "the command line prints"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "errors.py"], ids=name_of)
def test_errors_are_described_and_drawn(path):
    """Every error class has a docstring of its own and stands in the tree of its module, under its base."""
    module = importlib.import_module(f"{path.parent.name}.errors")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    errors = [c for c in classes if issubclass(c, Exception)]
    assert errors
    assert [c.__name__ for c in errors if not c.__dict__.get("__doc__")] == []
    drawn = re.findall(r"^([ │├└─]*)(\w+)", module.__doc__.partition("\n\n")[2], re.MULTILINE)
    depth = {name: len(branch) // 4 for branch, name in drawn}
    assert set(depth) == {c.__name__ for c in errors}
    above: list[str] = []
    for branch, name in drawn:
        above[len(branch) // 4 :] = [name]
        if len(above) > 1:
            assert getattr(module, name).__base__.__name__ == above[-2], name


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "errors.py"], ids=name_of)
def test_errors_say_how_a_command_ends(path):
    """Every error that can reach a user carries an exit code of the command line."""
    module = importlib.import_module(f"{path.parent.name}.errors")
    for _, error in inspect.getmembers(module, inspect.isclass):
        if issubclass(error, Exception) and error.__module__ == module.__name__:
            assert error.exit_code in range(1, 6), error.__name__


def public(body):
    return [
        node
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_have_docstrings(path):
    """Modules, public functions and public classes say what they are for."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the module"
    assert [node.name for node in public(tree.body) if not ast.get_docstring(node)] == []


def test_tests_are_no_packages():
    """With an __init__.py a folder of tests would shadow the package that it tests."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
