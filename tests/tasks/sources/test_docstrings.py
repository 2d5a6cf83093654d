"""The documentation of the installed Python."""

import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tasks.errors import SourceUnusable
from tasks.project import DocstringsSource
from tasks.sources.catalog import open_source
from tasks.sources.protocol import BATCH_ITEMS, Pulled


def pull(*packages: str) -> list[Pulled]:
    return list(open_source(DocstringsSource(kind="docstrings", packages=packages), "text", {}).pull(None))


def rows(*packages: str) -> dict[str, dict]:
    return {row["item_id"]: row for batch in pull(*packages) for row in batch.rows.to_pylist()}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package whose import would fail: it must be read, not run."""
    folder = tmp_path / "evervec_sample"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""The package."""\nraise RuntimeError("imported")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def write(folder: Path, name: str, source: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(source), encoding="utf-8")


def test_ids_are_unique():
    """No id comes twice from real packages with overloads, properties and nested classes."""
    found = [i for batch in pull("json", "email", "typing") for i in batch.rows["item_id"].to_pylist()]
    assert len(found) > 300
    assert [i for i, n in Counter(found).items() if n > 1] == []


def test_attributes_and_content():
    """An item has its package, its kind, the place of its source, and the text that Python itself shows."""
    import json

    found = rows("json")
    assert found["json:loads"]["attributes"] == {"package": "json", "kind": "function"}
    assert found["json"]["attributes"] == {"package": "json", "kind": "module"}
    assert found["json.decoder:JSONDecoder"]["attributes"] == {"package": "json", "kind": "class"}
    assert found["json.decoder:JSONDecoder.decode"]["attributes"]["kind"] == "function"
    assert found["json:loads"]["content"].decode().startswith(json.loads.__doc__.split("\n")[0])
    assert found["json:loads"]["uri"] == json.__file__


def test_qualified_names(package):
    """Ids name module and place; what is defined twice is told apart; undocumented things are left out."""
    write(
        package,
        "part.py",
        '''
        class Outer:
            """Outer."""
            class Inner:
                """Inner."""
                async def run(self):
                    """Run."""
            @property
            def x(self):
                """Get."""
            @x.setter
            def x(self, value):
                """Set."""
            def silent(self): ...
            def blank(self):
                """   """
        ''',
    )
    assert {i: row["content"].decode() for i, row in rows("evervec_sample").items()} == {
        "evervec_sample": "The package.",
        "evervec_sample.part:Outer": "Outer.",
        "evervec_sample.part:Outer.Inner": "Inner.",
        "evervec_sample.part:Outer.Inner.run": "Run.",
        "evervec_sample.part:Outer.x": "Get.",
        "evervec_sample.part:Outer.x#2": "Set.",
    }


def test_nothing_is_imported(package):
    """Sources are parsed and not run."""
    assert set(rows("evervec_sample")) == {"evervec_sample"}
    assert "evervec_sample" not in sys.modules


def test_files_that_are_no_python(package):
    """A template, a binary and an odd escape below a package do not stop the others."""
    write(package, "template.py", "{{ broken }} = (")
    write(package, "escape.py", '"""An \\d escape."""')
    (package / "binary.py").write_bytes(b"\0\1\2")
    (package / "latin.py").write_bytes('# coding: latin-1\n"""Grüße."""'.encode("latin-1"))
    found = rows("evervec_sample")
    assert set(found) == {"evervec_sample", "evervec_sample.escape", "evervec_sample.latin"}
    assert found["evervec_sample.latin"]["content"].decode() == "Grüße."


def test_lone_surrogates_are_handed_on(package):
    """A docstring with half a surrogate pair arrives as bytes, for decoding to reject."""
    write(package, "odd.py", r'"""Half \ud800."""')
    assert rows("evervec_sample")["evervec_sample.odd"]["content"] == b"Half \xed\xa0\x80."


def test_tests_are_left_out(package):
    """Test folders of a package are not documentation."""
    write(package, "test/case.py", '"""A test."""')
    write(package, "sub/__init__.py", '"""A subpackage."""')
    assert set(rows("evervec_sample")) == {"evervec_sample", "evervec_sample.sub"}


@pytest.mark.parametrize("name", ["no_such_package", "sys", "json.decoder", "not a name", ""])
def test_unknown_packages(name):
    """A package without Python sources here is one error, naming it and the setting."""
    with pytest.raises(SourceUnusable, match=r"`packages:` in evervec\.yaml") as raised:
        pull(name)
    assert repr(name) in str(raised.value)


def test_unknown_package_among_known_ones(package):
    """An unknown package is found before anything is pulled from those before it."""
    functions = (f'def f{n}():\n    """Text {n}."""\n' for n in range(BATCH_ITEMS + 1))
    write(package, "many.py", "".join(functions))
    source = open_source(
        DocstringsSource(kind="docstrings", packages=("evervec_sample", "json", "no_such_package")),
        "text",
        {},
    )
    with pytest.raises(SourceUnusable, match="no_such_package"):
        next(iter(source.pull(None)))


def test_single_module():
    """A module that is one file is pulled like a package."""
    found = rows("this", "textwrap")
    assert "textwrap:dedent" in found
    assert {row["attributes"]["package"] for row in found.values()} == {"textwrap"}


def test_standard_library():
    """Without packages it is the whole standard library, in bounded batches, the last one complete."""
    batches = pull()
    found = [i for batch in batches for i in batch.rows["item_id"].to_pylist()]
    assert len(found) > 5_000
    assert len(set(found)) == len(found)
    assert [b.complete for b in batches] == [False] * (len(batches) - 1) + [True]
    assert len(batches) > 1
    assert max(b.rows.num_rows for b in batches) < 2 * BATCH_ITEMS
    assert [n for b in batches for n in b.rows["row"].to_pylist()] == list(range(1, len(found) + 1))
    assert not any("site-packages" in u for b in batches for u in b.rows["uri"].to_pylist())


def test_same_pull_twice():
    """Two pulls of the same installation are equal, row by row."""
    assert [b.rows for b in pull("json", "logging")] == [b.rows for b in pull("json", "logging")]
