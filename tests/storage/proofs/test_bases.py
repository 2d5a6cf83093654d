"""Bases: files that releases name beside their rows, kept, checked and let go like those."""

import hashlib
import json
import os
from contextlib import closing

import pytest

from storage import bases, sql
from storage.doctor import examine
from storage.errors import Damaged
from storage.findings import mend
from storage.releases import make_live
from storage.repair import repair
from storage.snapshot import Snapshot

DAMAGES = {"delete": None, "cut": b"weight", "flip": b"weighty"[:6] + b"z", "empty": b""}


@pytest.fixture
def upgraded(toy, lake, commit):
    """A collection with a second release that has a basis; a function of its direction."""

    def make(direction="rows"):
        items = {"a": toy.Item("one two"), "b": toy.Item("three")}
        commit(toy.window(items))
        basis = toy.basis(lake / "docs", direction)
        changes = {"basis": basis, "strategy": "map" if direction == "rows" else "bridge"}
        release = toy.SECOND.model_copy(update={**changes, "upgraded_from": 1, "cascade": 50})
        commit(toy.filling(items, release=release, origin="mapped"))
        return basis

    return make


def damage(path, how):
    if DAMAGES[how] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how])


def aged(path):
    """As old as files that no grace protects."""
    os.utime(path, (1, 1))


def test_a_basis_is_read_as_it_was_written(toy, lake):
    """Whole and with its hash; a second time under the same name it is the same file."""
    root = lake / "docs"
    content = bytes(range(256)) * 10
    basis = toy.basis(root, content=content)
    assert bases.read(root, basis) == content
    assert basis.file.sha256 == hashlib.sha256(content).hexdigest()
    path = root / basis.file.path
    aged(path)
    assert bases.write(root, basis.basis_id, content) == basis.file
    assert path.stat().st_mtime > 1, "the next sweep does not take it for a leftover"
    assert [p.name for p in path.parent.iterdir()] == ["b" * 64 + ".safetensors"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b"])
def test_an_id_that_is_no_name_is_refused(lake, name):
    """No path leads out of the folder."""
    with pytest.raises(ValueError, match="is no name for a file"):
        bases.write(lake / "docs", name, b"weights")


def test_what_a_release_names_is_not_overwritten(upgraded, toy, lake):
    """Other bytes for the same map, with other metrics in them say, leave the file that the log knows."""
    basis = upgraded()
    root = lake / "docs"
    assert bases.write(root, basis.basis_id, b"weights, measured again") == basis.file
    assert bases.read(root, basis) == b"weights"
    assert bases.write(root, "c" * 64, b"one").sha256 != bases.write(root, "c" * 64, b"two").sha256
    (root / basis.file.path).write_bytes(b"altered")
    assert bases.write(root, basis.basis_id, b"weights") == basis.file
    assert bases.read(root, basis) == b"weights", "and the very same bytes mend it"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_basis_is_never_read(toy, lake, how):
    """Lost, cut or altered: an error that names the file."""
    basis = toy.basis(lake / "docs")
    damage(lake / "docs" / basis.file.path, how)
    with pytest.raises(Damaged, match=basis.file.path):
        bases.read(lake / "docs", basis)


@pytest.mark.parametrize("how", DAMAGES)
def test_the_doctor_names_a_damaged_basis_and_rows_can_do_without(upgraded, toy, lake, how):
    """Rows that were mapped with it stay as they are; the release goes on without."""
    basis = upgraded()
    assert examine(lake, "docs", deep=True) == []
    before = toy.read_vectors(Snapshot.open(lake / "docs"), toy.SECOND_SPACE)
    damage(lake / "docs" / basis.file.path, how)
    (found,) = examine(lake, "docs")
    assert found.path == str(lake / "docs" / basis.file.path)
    assert mend("docs") in found.repair
    assert found.severity == "damage"
    done = repair(lake, "docs")
    assert [f for f in done.left if f.severity == "damage"] == []
    assert any("rows that were mapped with it stay" in sentence for sentence in done.done)
    after = Snapshot.open(lake / "docs")
    assert toy.read_vectors(after, toy.SECOND_SPACE) == before
    assert after.head.release(2).basis is None


def test_queries_cannot_do_without_their_basis(upgraded, lake):
    """The finding says what can be done; a repair changes nothing, with or without --yes."""
    basis = upgraded("queries")
    (lake / "docs" / basis.file.path).unlink()
    (found,) = examine(lake, "docs")
    assert "evervec upgrade docs again" in found.repair
    make_live(lake / "docs", 2, "promote", "run")
    (found,) = examine(lake, "docs")
    assert "evervec rollback docs" in found.repair
    version = Snapshot.open(lake / "docs").version
    for drop in (False, True):
        done = repair(lake, "docs", drop=drop)
        assert [f.path for f in done.left] == [str(lake / "docs" / basis.file.path)]
        assert any("was left as it is" in sentence for sentence in done.done)
    assert Snapshot.open(lake / "docs").version == version


def test_leftover_bases_are_told_and_swept(upgraded, lake, maintain):
    """A basis that no release names is a leftover: young ones may be in use, old ones go."""
    kept = upgraded()
    root = lake / "docs"
    young, old = (bases.write(root, letter * 64, b"weights") for letter in "cd")
    aged(root / kept.file.path)
    aged(root / old.path)
    found = {f.path: f.severity for f in examine(lake, "docs")}
    assert found == {str(root / young.path): "notice", str(root / old.path): "damage"}
    assert maintain().removed == 1
    assert {p.name[0] for p in (root / "bases").iterdir()} == {"b", "c"}
    assert bases.read(root, kept) == b"weights"


def test_the_basis_of_a_retired_release_goes_with_the_versions_that_had_it(
    upgraded, toy, lake, clock, maintain, commit
):
    """As long as a version is kept at which the release was not retired, it can be read there."""
    basis = upgraded()
    root = lake / "docs"
    make_live(root, 2, "promote", "run")
    make_live(root, 1, "rollback", "run")
    assert maintain(releases=0).retired == [2]
    aged(root / basis.file.path)
    assert maintain(releases=0).removed == 0
    assert str(root / basis.file.path) not in {f.path for f in examine(lake, "docs")}
    assert bases.read(root, Snapshot.open(root, 3).head.live.basis) == b"weights"
    for _ in range(2):
        clock.move(days=20)
        commit(toy.window(rejects=[("x", "x.txt", "binary")]))
    assert maintain(releases=0).removed > 0
    assert not (root / basis.file.path).exists()
    assert [f for f in examine(lake, "docs") if f.severity == "damage"] == []


def test_a_purge_leaves_the_bases_that_are_needed_and_no_others(upgraded, lake, purge):
    """However young a leftover is."""
    basis = upgraded()
    bases.write(lake / "docs", "c" * 64, b"leftover")
    purge()
    assert [p.name for p in (lake / "docs/bases").iterdir()] == ["b" * 64 + ".safetensors"]
    assert bases.read(lake / "docs", basis) == b"weights"


def test_sql_lists_bases_and_what_releases_say_of_themselves(upgraded, lake):
    """`evervec.bases` has a line a release that has one; metrics are a JSON object."""
    basis = upgraded()
    make_live(lake / "docs", 2, "promote", "run")

    def ask(query):
        snapshots = {"docs": Snapshot.open(lake / "docs")}
        with closing(sql.connect(lake, snapshots, lambda c, t: None, lambda c, q, k: [])) as connection:
            return sql.run(connection, query).to_pylist()

    (line,) = ask("SELECT * FROM evervec.bases")
    assert json.loads(line.pop("metrics")) == {"cosine": 0.75}
    assert line == {
        "collection": "docs",
        "release": 2,
        **{
            name: getattr(basis, name)
            for name in ("basis_id", "family", "direction", "source", "target", "pairs")
        },
        "bytes": len(b"weights"),
        "since_version": 3,
    }
    columns = "strategy, cascade, through, forced, upgraded_from, report, basis_id"
    assert [tuple(r.values()) for r in ask(f"SELECT {columns} FROM evervec.releases ORDER BY release")] == [
        ("native", 0, None, False, None, None, None),
        ("map", 50, None, False, 1, None, basis.basis_id),
    ]
