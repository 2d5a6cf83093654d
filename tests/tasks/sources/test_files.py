"""Text files below a folder."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from encoders.decode import MAX_TEXT_BYTES
from tasks.errors import SourceUnusable
from tasks.project import FilesSource
from tasks.sources.catalog import open_source
from tasks.sources.files import Files
from tasks.sources.protocol import BATCH_BYTES, BATCH_ITEMS, Pulled, PullReject


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def write(root: Path, *names: str, content: str = "text") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def pull(root: Path, **settings: object) -> list[Pulled]:
    return list(open_source(FilesSource(kind="files", path=root, **settings), "text", {}).pull(None))


def ids(root: Path, **settings: object) -> list[str]:
    return [i for batch in pull(root, **settings) for i in batch.rows["item_id"].to_pylist()]


def rejects(root: Path) -> dict[str | None, PullReject]:
    return {reject.item_id: reject for batch in pull(root) for reject in batch.rejects}


def test_rows_of_a_pull(root):
    """Each file is one row: path relative to the root, its whole path, its bytes, its position."""
    write(root, "b.md", content="Grüße")
    write(root, "a.txt", content="first")
    (batch,) = pull(root)
    assert batch.rows.to_pylist() == [
        {"item_id": "a.txt", "uri": str(root / "a.txt"), "content": b"first", "row": 1},
        {"item_id": "b.md", "uri": str(root / "b.md"), "content": "Grüße".encode(), "row": 2},
    ]
    assert batch.rows.schema.types == [pa.string(), pa.string(), pa.large_binary(), pa.int64()]
    assert (batch.rejects, batch.deleted, batch.offset, batch.complete) == ((), (), None, True)


def test_nested_folders(root):
    """Files of every depth are found, and ids use forward slashes."""
    write(root, "a.md", "b/c/d.md", "b/e.md", "z.md", "\u00fc/f.md")
    assert sorted(ids(root)) == ["a.md", "b/c/d.md", "b/e.md", "z.md", "\u00fc/f.md"]


def test_same_order_at_every_pull(root):
    """Two pulls list the same files in the same order, whatever order they were written in."""
    write(root, *(f"{n * 37 % 50}/{n}.md" for n in range(50)))
    assert ids(root) == ids(root)
    assert ids(root) == sorted(ids(root))


def test_other_files_are_left_out(root):
    """By default only Markdown and text files are taken."""
    write(root, "a.md", "b.txt", "c.py", "d.mdx", "md", "e.MD.bak")
    assert ids(root) == ["a.md", "b.txt"]


@pytest.mark.parametrize(
    ("patterns", "taken"),
    [
        ({"include": ["*.py"]}, ["lib/x.py", "x.py"]),
        ({"include": ["**/*.md"]}, ["a.md", "lib/a.md", "lib/deep/a.md"]),
        ({"include": ["/*.md"]}, ["a.md"]),
        ({"include": ["lib/**"]}, ["lib/a.md", "lib/deep/a.md", "lib/x.py"]),
        ({"include": ["*.md"], "exclude": ["lib/"]}, ["a.md"]),
        ({"include": ["*.md"], "exclude": ["deep"]}, ["a.md", "lib/a.md"]),
        ({"include": ["*.md", "!lib/a.md"]}, ["a.md", "lib/deep/a.md"]),
        ({"include": ["*"], "exclude": ["*.py", "*.md"]}, []),
        ({"include": ["nothing"]}, []),
    ],
)
def test_patterns(patterns, taken, root):
    """Include and exclude are patterns as in .gitignore files, and exclude wins."""
    write(root, "a.md", "x.py", "lib/a.md", "lib/x.py", "lib/deep/a.md")
    assert sorted(ids(root, **patterns)) == taken


@pytest.mark.parametrize(
    "name",
    [
        "it's.md",
        'say "hi".md',
        "with spaces .md",
        "emoji 🙂👩\u200d👧.md",
        "..md",
        "a..b/...md",
        "..hidden/x.md",
        "new\nline.md",
        "semi;--drop table.md",
        "back\\slash.md",
        "%00.md",
        "東京/é.md",
        "e\u0301.md",
    ],
)
def test_unusual_names(name, root):
    """Any name that a file can have is its id, unchanged."""
    write(root, name)
    assert ids(root) == [name]


def test_undecodable_names(root):
    """A file name that is no UTF-8 gets an id with the bytes escaped, and is still read."""
    with open(os.path.join(os.fsencode(root), b"caf\xe9.md"), "wb") as file:
        file.write(b"text")
    (batch,) = pull(root)
    assert batch.rows["item_id"].to_pylist() == ["caf\\xe9.md"]
    assert batch.rows["content"].to_pylist() == [b"text"]
    batch.rows.validate(full=True)


def test_links_within_the_root(root):
    """A link to a file below the root is an item of its own with that file's content."""
    write(root, "sub/a.md", content="linked")
    (root / "b.md").symlink_to(root / "sub" / "a.md")
    (root / "c.md").symlink_to("sub/a.md")
    assert ids(root) == ["b.md", "c.md", "sub/a.md"]
    assert rejects(root) == {}


def test_links_out_of_the_root(root, tmp_path):
    """A link that leaves the root is a reject, and nothing behind it is read."""
    write(tmp_path, "secret.md", "elsewhere/s.md", content="secret")
    write(root, "a.md")
    (root / "abs.md").symlink_to(tmp_path / "secret.md")
    (root / "rel.md").symlink_to("../secret.md")
    (root / "again.md").symlink_to(root / "rel.md")
    assert ids(root) == ["a.md"]
    found = rejects(root)
    assert set(found) == {"abs.md", "rel.md", "again.md"}
    assert all("leads out of the source folder" in r.reason for r in found.values())
    assert found["abs.md"].uri == str(root / "abs.md")


def test_linked_folders(root, tmp_path):
    """A linked folder is not followed: neither does a file count twice, nor does one leave the root."""
    write(tmp_path, "elsewhere/s.md", content="secret")
    write(root, "sub/a.md")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "twice").symlink_to(root / "sub")
    (root / "sub" / "up").symlink_to(root)
    assert ids(root) == ["sub/a.md"]


def test_root_may_be_a_link(root, tmp_path):
    """The root itself may be a link; ids and contents are as below the folder it leads to."""
    write(root, "a.md", "sub/b.md")
    (root / "c.md").symlink_to(root / "a.md")
    (tmp_path / "link").symlink_to(root)
    assert ids(tmp_path / "link") == ["a.md", "c.md", "sub/b.md"]
    assert rejects(tmp_path / "link") == {}


def test_dangling_links(root):
    """A link to nothing is a reject with its id; the files beside it land."""
    write(root, "a.md")
    (root / "b.md").symlink_to(root / "gone.md")
    assert ids(root) == ["a.md"]
    assert rejects(root)["b.md"].reason == "a link to nothing"


def test_links_in_a_circle(root):
    """A link to itself, or two to each other, are rejects; the files beside them land."""
    write(root, "a.md")
    (root / "self.md").symlink_to("self.md")
    (root / "one.md").symlink_to("two.md")
    (root / "two.md").symlink_to("one.md")
    assert ids(root) == ["a.md"]
    assert set(rejects(root)) == {"self.md", "one.md", "two.md"}


def test_what_is_no_file(root):
    """A named pipe is a reject and is not waited for; a folder named like a text is a folder."""
    write(root, "a.md", "folder.md/b.md")
    os.mkfifo(root / "pipe.md")
    assert ids(root) == ["a.md", "folder.md/b.md"]
    assert set(rejects(root)) == {"pipe.md"}


def test_missing_folder(tmp_path):
    """A folder that does not exist is one error before any work, naming the path and the setting."""
    with pytest.raises(SourceUnusable, match=r"does not exist.*`path:` in evervec\.yaml") as raised:
        pull(tmp_path / "nothere")
    assert str(tmp_path / "nothere") in str(raised.value)
    assert raised.value.exit_code == 2


def test_file_instead_of_a_folder(tmp_path):
    """A file where a folder is expected says so."""
    write(tmp_path, "a.md")
    with pytest.raises(SourceUnusable, match="is a file; expected a folder"):
        pull(tmp_path / "a.md")


def test_empty_folder(root):
    """A folder without texts is a complete pull of no rows: what follows from that is not its matter."""
    (batch,) = pull(root)
    assert batch.complete
    assert batch.rows.num_rows == 0
    assert batch.rows.column_names == ["item_id", "uri", "content", "row"]


def test_empty_and_binary_files_are_handed_on(root):
    """What a file contains is not judged here: decoding rejects it with a reason of its own."""
    (root / "empty.md").write_bytes(b"")
    (root / "nul.md").write_bytes(b"a\0b")
    (batch,) = pull(root)
    assert batch.rows["content"].to_pylist() == [b"", b"a\0b"]


def test_batches_are_bounded_by_number(root):
    """More files than a batch holds come in several; positions go on; only the last is complete."""
    for n in range(BATCH_ITEMS + 10):
        (root / f"{n:05}.md").write_bytes(b"x")
    batches = pull(root)
    assert [b.rows.num_rows for b in batches] == [BATCH_ITEMS, 10]
    assert [b.complete for b in batches] == [False, True]
    rows = [row for b in batches for row in b.rows["row"].to_pylist()]
    assert rows == list(range(1, BATCH_ITEMS + 11))
    assert len({i for b in batches for i in b.rows["item_id"].to_pylist()}) == BATCH_ITEMS + 10


def test_batches_are_bounded_by_bytes(root):
    """A batch ends with the file that fills it, so that memory does not grow with the folder."""
    part = BATCH_BYTES // 4
    for n in range(9):
        (root / f"{n}.md").write_bytes(b"x" * part)
    batches = pull(root)
    assert [b.rows.num_rows for b in batches] == [4, 4, 1]
    assert [b.complete for b in batches] == [False, False, True]


def test_no_more_is_read_than_is_taken(root):
    """Of a file over the limit just enough is read to tell that it is."""
    with (root / "huge.md").open("wb") as file:
        file.truncate(4 * MAX_TEXT_BYTES)
    (batch,) = [b for b in pull(root) if b.rows.num_rows]
    assert len(batch.rows["content"][0].as_py()) == MAX_TEXT_BYTES + 1


def test_rejects_come_with_their_batch(root):
    """A reject is told once, however many batches there are."""
    for n in range(BATCH_ITEMS + 1):
        (root / f"{n:05}.md").write_bytes(b"x")
    (root / "00000a.md").symlink_to(root / "gone")
    (root / "zz.md").symlink_to(root / "gone")
    assert [[r.item_id for r in b.rejects] for b in pull(root)] == [["00000a.md"], ["zz.md"]]


def test_source_names_itself(root):
    """The source says where it is, and that encodings are to be found out."""
    source = Files(FilesSource(kind="files", path=root), "text")
    assert source.where == str(root)
    assert source.encoding is None
