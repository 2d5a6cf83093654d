"""A lake in an object store, against a real server: moto's S3 in a process of its own."""

import hashlib
import http.client
import http.server
import itertools
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import remote
from storage.errors import LakeBusy, StorageError
from storage.leases import hold
from storage.remote import PART, Remote
from storage.sandbox import lock_down

ROOT = Path(__file__).parents[2]
OWNER = {"host": "here", "pid": 1, "since": "2026-01-02T00:00:00+00:00"}
SECRET = "a-key-that-nobody-may-see"


def request(port, method, path, body=b"", headers=()):
    """One request to a server on this machine: status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


class Between(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the S3 server, except those that it is told to treat otherwise."""

    def do_any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.command)
        for name in self.server.unheard:
            del self.headers[name]
        treatment = self.server.treatments.pop(self.command, None)
        if isinstance(treatment, int):  # refused, not handed on
            return self.answer(treatment, [], b"<Error><Code>Because</Code></Error>")
        answer = request(self.server.behind, self.command, self.path, body, self.headers.items())
        if treatment == "lose the answer":
            return self.connection.shutdown(socket.SHUT_RDWR)
        return self.answer(*answer)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_any

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "server", "date", "transfer-encoding"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def between(s3, s3_port, monkeypatch):
    """What stands between the lake and its server.

    `treatments` of the next request, by its method; `seen` methods; `unheard` headers.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between)
    server.behind, server.treatments, server.seen, server.unheard = s3_port, {}, [], ()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def table(rows, seed=0):
    vectors = np.random.default_rng(seed).random((rows, 16), dtype=np.float32)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16)
    return pa.table({"item_id": [f"i{n}" for n in range(rows)], "n": range(rows), "vector": vector})


def write(place, content, **options):
    sink = place.sink()
    pq.write_table(content, sink, **options)
    return sink.finish(), sink.size


def run_python(code, *arguments):
    """Another process of this project, with pipes."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_place_is_a_value():
    """Equal places are equal keys, also after a trip to another process; parts and text agree."""
    place = Remote.parse("s3://bucket/a/b.json/")
    assert {pickle.loads(pickle.dumps(place)): 1}[Remote("bucket", "a") / "b.json"] == 1
    assert (str(place), place.name, str(place.parent)) == ("s3://bucket/a/b.json", "b.json", "s3://bucket/a")
    bucket = Remote.parse("s3://bucket")
    assert (str(bucket), bucket / "x") == ("s3://bucket", Remote("bucket", "x"))


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "s3://b/../x", "s3://b/a//x", "s3://b/./x"])
def test_what_is_no_place_is_refused(text):
    """Neither a missing bucket nor a path that could mean another one gets through."""
    with pytest.raises(StorageError, match="s3://bucket/prefix"):
        Remote.parse(text)


def test_files_are_there_until_removed(s3):
    """What is written is read back whole; what was removed is gone, and can be removed again."""
    file = s3 / "docs/a b'ü%20+.json"
    assert not file.exists()
    with pytest.raises(FileNotFoundError, match="s3://"):
        file.read_bytes()
    with pytest.raises(FileNotFoundError, match="s3://"):
        file.open_input()
    file.replace(b"1")
    file.replace(b"22")
    assert file.exists()
    assert file.read_bytes() == b"22"
    assert (s3 / "docs").names() == [file.name]
    file.remove()
    file.remove()
    assert not file.exists()


def test_a_folder_has_all_its_files_and_no_others(s3):
    """However many: a listing has 1000 names a page. A name that only begins alike is another folder."""
    expected = {f"{n:04}" for n in range(1003)}
    (s3.parent / "lakeside/x").replace(b"x")
    (s3 / "many/below/y").replace(b"yy")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: (s3 / "many" / name).replace(b""), expected))
    assert sorted((s3 / "many").names()) == sorted(expected)
    assert s3.names() == []
    entries = {path: (size, changed) for path, size, changed in s3.walk()}
    assert set(entries) == {f"many/{name}" for name in expected} | {"many/below/y"}
    size, changed = entries["many/below/y"]
    assert size == 2
    assert abs(datetime.now(UTC) - changed) < timedelta(minutes=5)
    s3.remove_tree()
    s3.remove_tree()
    assert [path for path, _, _ in s3.parent.walk()] == ["lakeside/x"]


def test_one_of_many_threads_creates(s3):
    """Exactly one succeeds, and the file is that one's."""
    barrier = threading.Barrier(8)

    def create(n):
        barrier.wait()
        try:
            (s3 / "1.json").create(f"of {n}".encode())
        except FileExistsError:
            return None
        return n

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [n for n in pool.map(create, range(8)) if n is not None]
    assert (s3 / "1.json").read_bytes() == f"of {winner}".encode()


def test_one_of_several_processes_creates(s3):
    """As above, with nothing in common but the store."""
    code = """
import os, sys
from storage.remote import Remote
place = Remote.parse(sys.argv[1])
place.exists()
print("ready", flush=True)
sys.stdin.readline()
try:
    place.create(str(os.getpid()).encode())
    print("won")
except FileExistsError:
    print("lost")
"""
    processes = [run_python(code, s3 / "1.json") for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate()[0].strip() for process in processes]
    assert sorted(ends) == ["lost", "lost", "won"]


def test_a_lost_answer_is_no_lost_race(s3, between):
    """The store wrote, the answer was lost: `create` finds that the file is its own."""
    between.treatments["PUT"] = "lose the answer"
    (s3 / "1.json").create(b"mine")
    assert "lose the answer" not in between.treatments.values()
    with pytest.raises(FileExistsError):
        (s3 / "1.json").create(b"another's")
    assert (s3 / "1.json").read_bytes() == b"mine"


def test_a_conflict_without_a_winner_is_tried_again(s3, between):
    """S3 answers 409 when writers meet and none wins: that is no file that is already there."""
    between.treatments["PUT"] = 409
    (s3 / "1.json").create(b"mine")
    assert (s3 / "1.json").read_bytes() == b"mine"


def test_parquet_goes_in_and_comes_out(s3):
    """Written by pyarrow in several parts, read back equal: all, and some columns."""
    rows = table(150_000)
    digest, size = write(s3 / "a.parquet", rows, row_group_size=65_536, write_page_checksum=True)
    assert size > PART
    [(_, stored, _)] = s3.walk()
    assert stored == size
    data = (s3 / "a.parquet").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    for options in ({}, {"pre_buffer": True}):
        with pq.ParquetFile(
            (s3 / "a.parquet").open_input(), page_checksum_verification=True, **options
        ) as file:
            assert file.read(columns=["n"]) == rows.select(["n"])
            assert file.read() == rows


def test_a_small_file_takes_two_requests(s3, between):
    """Its size and its bytes: a round trip is what costs."""
    write(s3 / "a.parquet", table(1000))
    between.seen.clear()
    assert pq.read_table((s3 / "a.parquet").open_input()) == table(1000)
    assert between.seen == ["HEAD", "GET"]


def test_nothing_is_left_of_what_was_abandoned(s3, s3_port):
    """No file, and no parts that somebody would pay for."""
    sink = (s3 / "a.parquet").sink()
    for _ in range(5):
        sink.write(bytes(PART // 2 + 1))
    assert b"<UploadId>" in request(s3_port, "GET", f"/{s3.bucket}?uploads")[2]
    sink.abandon()
    assert b"<UploadId>" not in request(s3_port, "GET", f"/{s3.bucket}?uploads")[2]
    assert list(s3.walk()) == []


def test_threads_share_one_open_file(s3):
    """Each reads where it seeked to, whatever the others do: DuckDB reads like this."""
    data = np.arange(2**19, dtype=np.uint32).tobytes()
    (s3 / "f").replace(data)
    file = (s3 / "f").open_input()

    everybody = threading.Barrier(8)

    def read(at):
        file.seek(at)
        everybody.wait()
        return file.read(1000) == data[at : at + 1000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, len(data), len(data) // 16 + 1)))
    file.seek(-3, 2)
    assert (file.read(10), file.read(10), file.tell()) == (data[-3:], b"", len(data))


@pytest.fixture
def duck(s3, tmp_path):
    """DuckDB, locked to a lake with two files; one more lies beside the lake, one in a local folder."""
    for n, name in enumerate(("lake/a.parquet", "lake/b.parquet", "lakeside/c.parquet")):
        write(s3.parent / name, table(50_000, n), row_group_size=4096)
    pq.write_table(table(1), tmp_path / "local.parquet")
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    connection.register_filesystem(remote.filesystem(s3))
    lock_down(connection, s3)
    yield connection
    connection.close()


def test_duckdb_reads_the_lake(s3, duck):
    """With the name and position of each row; many threads at once give the same as pyarrow."""
    scan = f"read_parquet(['{s3}/a.parquet', '{s3}/b.parquet'], filename='_path', file_row_number=true)"
    found = duck.sql(
        f"SELECT _path, file_row_number FROM {scan} WHERE item_id = 'i4321' ORDER BY 1"
    ).fetchall()
    assert found == [(f"{s3}/a.parquet", 4321), (f"{s3}/b.parquet", 4321)]
    expected = [float(np.sum(table(50_000, n)["vector"].to_numpy()[7])) for n in (0, 1)]
    for _ in range(3):
        total = duck.sql(f"SELECT count(*), sum(n), sum(list_sum(vector)) FROM {scan}").fetchall()
        assert total[0][:2] == (100_000, 49_999 * 50_000)
    rows = duck.sql(f"SELECT list_sum(vector) FROM {scan} WHERE n = 7 ORDER BY _path").fetchall()
    assert [r[0] for r in rows] == pytest.approx(expected, rel=1e-5)
    assert duck.sql(f"SELECT count(*) FROM '{s3}/*.parquet'").fetchall() == [(100_000,)]


def test_duckdb_reads_nothing_else(s3, duck, tmp_path):
    """Neither another folder of the bucket, nor another bucket, nor a local file."""
    outside = [
        f"{s3.parent}/lakeside/c.parquet",
        f"{s3}/../lakeside/c.parquet",
        f"{s3.parent}/*/c.parquet",
        "s3://other/c.parquet",
        f"{tmp_path}/local.parquet",
        f"file://{tmp_path}/local.parquet",
    ]
    for path in outside:
        with pytest.raises(duckdb.Error, match="disabled by configuration"):
            duck.sql(f"SELECT * FROM read_parquet('{path}')").fetchall()
    with pytest.raises(duckdb.Error, match="No files found"):
        duck.sql(f"SELECT * FROM read_parquet('{s3}/%2e%2e/lakeside/c.parquet')").fetchall()


def test_the_file_system_itself_ends_at_the_lake(s3):
    """Not only DuckDB's settings hold: what is handed over knows no other place and cannot write."""
    (s3.parent / "lakeside/c").replace(b"c")
    (s3 / "a").replace(b"a")
    system = remote.filesystem(s3)
    assert system.open(f"{s3}/a").read() == b"a"
    for path in (f"{s3.parent}/lakeside/c", f"{s3}/../lakeside/c"):
        assert not system.exists(path)
        with pytest.raises((PermissionError, StorageError)):
            system.open(path)
    with pytest.raises(PermissionError):
        system.open(f"{s3}/a", "wb")


def test_lancedb_keeps_its_versions_there(s3):
    """Create, merge, delete, check out and restore, as the index does."""
    rows = table(100)
    database = lancedb.connect(str(s3 / "index"), storage_options=remote.lance_options(s3))
    index = database.create_table("t", schema=rows.schema)
    merge = index.merge_insert(["item_id"]).when_matched_update_all().when_not_matched_insert_all()
    first = merge.use_index(False).execute(rows).version
    assert index.delete("item_id IN ('i1', 'i2')").version == first + 1
    old = database.open_table("t")
    old.checkout(first)
    assert (old.count_rows(), index.count_rows()) == (100, 98)
    query = rows["vector"][1].as_py()
    assert old.search(query).distance_type("cosine").limit(1).to_list()[0]["item_id"] == "i1"
    index.restore(first)
    assert index.count_rows() == 100
    (s3 / "index/t.lance").remove_tree()
    assert list(s3.walk()) == []
    assert database.create_table("t", schema=rows.schema).count_rows() == 0


def test_a_held_lease_is_not_given_again(s3):
    """Others learn who has it; afterwards the next one gets it at once."""
    place = s3 / "docs/_locks/commit.lock"
    for _ in range(2):
        with hold(place, OWNER, wait=0) as lease:
            assert lease.still_held()
            with (
                pytest.raises(LakeBusy, match="'docs' is held by process 1 on here"),
                hold(place, {}, wait=0.2),
            ):
                pass
        assert not lease.still_held()


def test_who_waits_gets_the_lease_when_it_is_free(s3):
    """Within the time he is ready to wait."""
    place = s3 / "_locks/commit.lock"
    with ThreadPoolExecutor(1) as pool:

        def wait_for_it():
            with hold(place, OWNER, wait=20) as lease:
                return lease.still_held()

        with hold(place, OWNER, wait=0, seconds=2):
            waiting = pool.submit(wait_for_it)
            time.sleep(0.3)
            assert not waiting.done()
        assert waiting.result(timeout=10)


def test_a_lease_is_renewed_as_long_as_its_holder_lives(s3):
    """One who waits for longer than it is good for does not get it."""
    place = s3 / "_locks/commit.lock"
    with hold(place, OWNER, wait=0, seconds=0.6) as lease:
        with pytest.raises(LakeBusy), hold(place, OWNER, wait=1.0, seconds=0.6):
            pass
        assert lease.still_held()


HOLDER = """
import sys
from storage.leases import hold
from storage.remote import Remote
with hold(Remote.parse(sys.argv[1]), {"host": "h", "pid": 7, "since": "s"}, wait=0, seconds=0.6) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    print(lease.still_held(), flush=True)
"""


def test_one_of_several_takes_the_lease_of_a_dead_process(s3):
    """Who watched it go unrenewed for its time; never two at once."""
    place = s3 / "_locks/commit.lock"
    holder = run_python(HOLDER, place)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    inside, overlaps, tickets = [], [], itertools.count()

    def take(_):
        with hold(place, OWNER, wait=20, seconds=0.6):
            inside.append(next(tickets))
            overlaps.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(4)))
    assert overlaps == [1, 1, 1, 1]


def test_a_lease_left_long_ago_needs_no_waiting(s3):
    """The next run after a crash goes on at once, by the times that the store gives."""
    place = s3 / "_locks/ingest.lock"
    holder = run_python(HOLDER, place)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    with pytest.raises(LakeBusy, match="process 7 on h"), hold(place, OWNER, wait=0):
        pass
    time.sleep(2.1)  # twice 0.6 s; the store counts whole seconds
    with hold(place, OWNER, wait=0) as lease:
        assert lease.still_held()


def test_who_slept_through_his_lease_learns_it_and_leaves_the_new_one_alone(s3):
    """A process that was stopped, and goes on when another has the lease."""
    place = s3 / "_locks/commit.lock"
    holder = run_python(HOLDER, place)
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    with hold(place, OWNER, wait=20, seconds=5) as lease:
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate("\n")[0] == "False\n"
        assert holder.returncode == 0
        assert lease.still_held()


def test_who_lets_go_takes_nothing_away_from_another(s3):
    """His lease was removed by hand and given to another, and he did not notice."""
    place = s3 / "_locks/commit.lock"
    with ExitStack() as later:
        with hold(place, OWNER, wait=0) as lost:
            place.remove()
            given = later.enter_context(hold(place, OWNER, wait=0))
        assert not lost.still_held()
        assert given.still_held()
        place.remove()
        assert not given.still_held()


def test_a_renewal_whose_answer_was_lost_is_one(s3, between):
    """The holder still has the lease, and can renew it again."""
    with hold(s3 / "_locks/commit.lock", OWNER, wait=0) as lease:
        between.treatments["PUT"] = "lose the answer"
        assert lease.still_held()
        assert not between.treatments
        assert lease.still_held()


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_no_place_for_a_lake(s3, between, header):
    """Before anything is written under a lease that two could hold."""
    between.unheard = (header,)
    with pytest.raises(StorageError, match="would overwrite each other"), hold(s3 / "l", OWNER, wait=0):
        pass
    assert not (s3 / "l").exists()


def test_a_refusal_says_where_and_what_to_check(s3, between):
    """The place, the store's reason, the variables; never a secret."""
    for call, method in (
        (lambda: (s3 / "f").read_bytes(), "GET"),
        (lambda: (s3 / "f").create(b""), "PUT"),
        (lambda: (s3 / "f").exists(), "HEAD"),
        (lambda: s3.names(), "GET"),
        (lambda: list(s3.walk()), "GET"),
    ):
        between.treatments[method] = 403
        with pytest.raises(
            StorageError, match=r"s3://test-.*(Because|403 Forbidden); .*AWS_ACCESS_KEY_ID"
        ) as told:
            call()
        assert SECRET not in str(told.value)
        assert "\n" not in str(told.value)


def test_a_refusal_while_reading_is_no_damage(s3, between):
    """Parquet readers take an OSError for a broken file; a store that refuses is not that."""
    write(s3 / "a.parquet", table(10))
    file = (s3 / "a.parquet").open_input()
    between.treatments["GET"] = 403
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        pq.ParquetFile(file)


def test_a_missing_bucket_is_not_an_empty_lake(s3):
    """A typing error must not look like a lake in which nothing was committed yet."""
    nowhere = Remote("no-such-bucket", "lake")
    sink = (nowhere / "f").sink()
    sink.write(b"x")
    for call in (
        nowhere.names,
        nowhere.read_bytes,
        lambda: nowhere.create(b""),
        lambda: list(nowhere.walk()),
        sink.finish,
    ):
        with pytest.raises(StorageError, match=r"create the bucket 'no-such-bucket'"):
            call()


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_named(s3, monkeypatch):
    """After some seconds of trying."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for call in (s3.exists, lambda: s3.create(b"")):
        with pytest.raises(StorageError, match=f"{s3}: .*; check AWS_ENDPOINT_URL"):
            call()


def test_without_the_extra_the_error_says_how_to_get_it(s3, monkeypatch):
    """Nobody who has a local lake pays for obstore, and who needs it learns its name."""
    monkeypatch.setitem(sys.modules, "obstore", None)
    for call in (s3.exists, s3.sink, s3.open_input, s3.names):
        with pytest.raises(StorageError, match=r"pip install 'evervec\[s3\]'"):
            call()
