"""Data files: what the log says of them is what lies on disk, and damage is never read as numbers."""

import gc
import hashlib
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import parquet
from storage.errors import Damaged
from storage.schemas import items_schema, vectors_schema

DIM = 8


@pytest.fixture
def vectors():
    """A vectors table of 300 rows, values not compressible."""
    rows = 300
    matrix = np.random.default_rng(0).random((rows, DIM), dtype=np.float32)
    return pa.table(
        {
            "item_id": [f"item-{i}" for i in range(rows)],
            "chunk_no": pa.array([0] * rows, pa.int32()),
            "chunk_start": pa.array([0] * rows, pa.int64()),
            "chunk_end": pa.array(range(rows), pa.int64()),
            "chunk_hash": pa.array([hashlib.md5(bytes([i % 256])).digest() for i in range(rows)]).cast(
                pa.binary(16)
            ),
            "origin": ["encoded"] * rows,
            "basis_id": pa.nulls(rows, pa.string()),
            "residual": pa.nulls(rows, pa.float32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), DIM),
            "run_id": ["run"] * rows,
        },
        schema=vectors_schema(DIM),
    )


@pytest.fixture
def small():
    """A table whose file is short enough to damage every one of its bytes."""
    return pa.table({"item_id": ["a", "b", "c"], "chunk_no": pa.array([0, 1, 2], pa.int32())})


def flip(path, at):
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)


def pages_end(path):
    """Where the pages end and the footer begins."""
    return path.stat().st_size - 8 - pq.read_metadata(path).serialized_size


def test_the_record_of_a_file_is_what_lies_on_disk(tmp_path, vectors):
    """SHA-256, size and rows are those of the file, and the path is relative to the collection."""
    file = parquet.write(tmp_path, "data/vectors/space", vectors)
    path = tmp_path / file.path
    assert path.parent == tmp_path / "data/vectors/space"
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.bytes == path.stat().st_size
    assert file.rows == pq.read_metadata(path).num_rows == vectors.num_rows


def test_what_was_written_is_read(tmp_path, vectors):
    """Rows, order and Arrow types (fixed-size lists too) come back as they were."""
    file = parquet.write(tmp_path, "data", vectors)
    assert parquet.read(tmp_path, file).equals(vectors)
    assert parquet.schema(tmp_path, file).equals(vectors.schema)


def test_every_file_has_a_name_of_its_own(tmp_path, small):
    """Equal tables go to different files, so that no file is ever overwritten."""
    first, second = (parquet.write(tmp_path, "data", small) for _ in range(2))
    assert first.path != second.path
    assert first.sha256 == second.sha256
    assert len(list((tmp_path / "data").iterdir())) == 2


def test_vectors_are_byte_stream_split_and_the_rest_as_fits(tmp_path, vectors):
    """Vectors have no dictionary, key columns have statistics and no other, all is zstd."""
    file = parquet.write(tmp_path, "data", vectors)
    group = pq.read_metadata(tmp_path / file.path).row_group(0)
    columns = {c.path_in_schema: c for c in (group.column(i) for i in range(group.num_columns))}
    vector = columns["vector.list.element"]
    assert "BYTE_STREAM_SPLIT" in vector.encodings
    assert not any("DICTIONARY" in e for e in vector.encodings)
    assert not vector.has_dictionary_page
    assert {c.compression for c in columns.values()} == {"ZSTD"}
    assert {name for name, c in columns.items() if c.is_stats_set} == {"item_id", "chunk_no"}
    assert columns["run_id"].has_dictionary_page
    assert not columns["item_id"].has_dictionary_page


def test_row_groups_are_small(tmp_path):
    """A large file has row groups of 16,384 rows, so that a point read decodes little."""
    rows = 40_000
    file = parquet.write(tmp_path, "data", pa.table({"chunk_no": pa.array(range(rows), pa.int32())}))
    metadata = pq.read_metadata(tmp_path / file.path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [16_384, 16_384, 7_232]


@pytest.mark.parametrize("column", ["item_id", "chunk_hash", "vector.list.element"])
def test_a_flipped_byte_in_a_data_page_is_damage(tmp_path, vectors, column):
    """A page whose bytes changed is refused by its checksum, and the message names the file."""
    file = parquet.write(tmp_path, "data", vectors)
    path = tmp_path / file.path
    group = pq.read_metadata(path).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    flip(path, chunk.data_page_offset + chunk.total_compressed_size - 20)
    with pytest.raises(Damaged, match=path.name) as caught:
        parquet.read(tmp_path, file)
    assert caught.value.path == path
    assert caught.value.exit_code == 5
    assert parquet.read(tmp_path, file, ["origin"]).num_rows == 300, "other columns are not concerned"


def test_no_flipped_byte_in_the_pages_changes_what_is_read(tmp_path, small):
    """Whichever byte before the footer is damaged: the read is refused, or gives what was written."""
    file = parquet.write(tmp_path, "data", small)
    path = tmp_path / file.path
    whole = path.read_bytes()
    refused = 0
    for at in range(pages_end(path)):
        path.write_bytes(whole)
        flip(path, at)
        try:
            assert parquet.read(tmp_path, file).equals(small), f"byte {at}"
        except Damaged:
            refused += 1
    assert refused > pages_end(path) / 2


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_file_is_damage(tmp_path, vectors, kept):
    """A file that lost its end, or all of it, is named and not read."""
    file = parquet.write(tmp_path, "data", vectors)
    path = tmp_path / file.path
    path.write_bytes(path.read_bytes()[:kept])
    for read in (parquet.read, parquet.schema):
        with pytest.raises(Damaged, match=path.name):
            read(tmp_path, file)


def test_a_missing_file_is_damage(tmp_path, small):
    """A file that the log names and that is gone is an integrity finding, not a plain missing file."""
    file = parquet.write(tmp_path, "data", small)
    (tmp_path / file.path).unlink()
    for read in (parquet.read, parquet.schema):
        with pytest.raises(Damaged, match=file.path.rpartition("/")[2]):
            read(tmp_path, file)


def test_another_file_in_its_place_is_damage(tmp_path, small):
    """A whole Parquet file with another number of rows is not the file that the log names."""
    file, other = parquet.write(tmp_path, "data", small), parquet.write(tmp_path, "data", small.slice(1))
    (tmp_path / other.path).replace(tmp_path / file.path)
    with pytest.raises(Damaged, match="holds 2 rows, the log says 3"):
        parquet.read(tmp_path, file)


def test_attributes_that_a_file_lacks_are_absent(tmp_path, small):
    """A file of a time without attributes has no such column: the others come in the asked order."""
    file = parquet.write(tmp_path, "data", small)
    asked = ["chunk_no", "attributes", "item_id"]
    assert parquet.read(tmp_path, file, asked).column_names == ["chunk_no", "item_id"]


def test_any_other_column_that_is_missing_is_damage(tmp_path, small):
    """A flipped bit in the footer can rename a column; its values must not silently be gone."""
    file = parquet.write(tmp_path, "data", small)
    with pytest.raises(Damaged, match="lacks column 'chunk_hash'"):
        parquet.read(tmp_path, file, ["item_id", "chunk_hash"])


def test_only_the_asked_columns_are_read(tmp_path, vectors):
    """Damage in a column that was not asked for does not matter to the read."""
    file = parquet.write(tmp_path, "data", vectors)
    assert parquet.read(tmp_path, file, ["chunk_no"]).column_names == ["chunk_no"]


def test_items_without_attributes_have_no_such_column(tmp_path):
    """Parquet has no empty struct: without attributes the column is left out, and the file is written."""
    schema = items_schema(pa.struct([]))
    assert "attributes" not in schema.names
    file = parquet.write(tmp_path, "data/items", schema.empty_table())
    assert parquet.schema(tmp_path, file).names == schema.names


def test_a_file_written_in_pieces_is_one_file(tmp_path, vectors):
    """Piece by piece or at once: the same rows in one file, whose record is right."""
    with parquet.Writer(tmp_path, "data", vectors.schema) as writer:
        for start in range(0, vectors.num_rows, 70):
            writer.write(vectors.slice(start, 70))
    file = writer.written()
    path = tmp_path / file.path
    assert parquet.read(tmp_path, file).equals(vectors)
    assert (file.rows, file.bytes) == (vectors.num_rows, path.stat().st_size)
    assert file.sha256 == parquet.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_without_rows_is_a_file(tmp_path, vectors):
    """Nothing written is an empty table with its columns."""
    with parquet.Writer(tmp_path, "data", vectors.schema) as writer:
        pass
    file = writer.written()
    assert file.rows == 0
    assert parquet.read(tmp_path, file).equals(vectors.slice(0, 0))


def test_a_file_whose_writing_failed_is_not_there(tmp_path, vectors):
    """An error while the rows are made leaves no file behind, and no second error when it is forgotten."""

    def write():
        with parquet.Writer(tmp_path, "data", vectors.schema) as writer:
            writer.write(vectors)
            raise ValueError("no more rows")

    with pytest.raises(ValueError, match="no more rows"):
        write()
    gc.collect()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path, vectors, monkeypatch):
    """If the end of a file cannot be made durable, nothing of it stays under any name."""

    def full(handle):
        raise OSError(28, "No space left on device")

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        parquet.write(tmp_path, "data", vectors)
    monkeypatch.undo()
    gc.collect()
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("rows", [1, 64, 1000])
def test_batches_are_the_table_some_rows_at_a_time(tmp_path, vectors, rows):
    """All rows in their order, none more than asked for at once."""
    file = parquet.write(tmp_path, "data", vectors)
    found = list(parquet.batches(tmp_path, file, rows=rows))
    assert max(b.num_rows for b in found) <= rows
    assert pa.concat_tables(found).equals(vectors)
    keys = pa.concat_tables(parquet.batches(tmp_path, file, ["chunk_no", "item_id"], rows))
    assert keys.equals(vectors.select(["item_id", "chunk_no"]).select(keys.column_names))


def test_batches_of_a_damaged_file_are_refused(tmp_path, vectors):
    """A page that changed, another file in its place, one that is gone: each is named, none is read."""
    file, other = parquet.write(tmp_path, "data", vectors), parquet.write(tmp_path, "data", vectors.slice(1))
    path = tmp_path / file.path
    whole = path.read_bytes()
    chunk = pq.read_metadata(path).row_group(0).column(0)
    flip(path, chunk.data_page_offset + chunk.total_compressed_size - 20)
    with pytest.raises(Damaged, match=path.name):
        list(parquet.batches(tmp_path, file))
    path.write_bytes((tmp_path / other.path).read_bytes())
    with pytest.raises(Damaged, match="holds 299 rows, the log says 300"):
        list(parquet.batches(tmp_path, file))
    path.write_bytes(whole)
    assert sum(b.num_rows for b in parquet.batches(tmp_path, file)) == 300
    path.unlink()
    with pytest.raises(Damaged, match=path.name):
        list(parquet.batches(tmp_path, file))
