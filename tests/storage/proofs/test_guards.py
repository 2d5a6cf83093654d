"""Each guard has a test that goes red without it: guards are taken out one by one, in a copy of the packages.

A guard is a file, a snippet of it, what the snippet is replaced by, and the test that must then fail. If
a snippet is not in its file exactly once any more, the first test here says which to write anew.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.snapshot import Snapshot

ROOT = Path(__file__).parents[3]
PACKAGES = ("storage", "tasks", "encoders", "flows")
STORAGE = "tests/storage/test_"
PROOFS = "tests/storage/proofs/test_"


@dataclass(frozen=True)
class Guard:
    """What stands in a file, what is put in its place, and the tests that notice."""

    name: str
    file: str
    snippet: str
    mutated: str
    tests: tuple[str, ...]


def guard(name, file, snippet, mutated, *tests):
    return Guard(name, file, snippet, mutated, tests)


PLACES, VECTORS = "storage/places.py", "storage/vectors.py"
DRAFTING, TRANSACTION = "storage/drafting.py", "storage/transaction.py"
BUILDING = "storage/building.py"
DURABLE = f"{STORAGE}places.py::test_a_file_is_durable_before_its_name_and_its_name_on_return"
SINK = f"{STORAGE}places.py::test_what_goes_through_a_sink_is_durable_when_it_is_finished"
SYNCED = f"{STORAGE}transaction.py::test_everything_is_synced_before_the_record_is_linked"

GUARDS = [
    # durable: files before their names, folders after them
    guard("fsync of a data file", PLACES, "os.fsync(self._file.fileno())", "pass", SINK, SYNCED),
    guard("fsync of its folder", PLACES, "fsync_directory(self._path.parent)", "pass", SINK),
    guard("fsync of a record", PLACES, "os.fsync(opened.fileno())", "pass", DURABLE, SYNCED),
    guard(
        "fsync of the log's folder",
        PLACES,
        "temporary.unlink()\n    fsync_directory(file.parent)",
        "temporary.unlink()",
        DURABLE,
        SYNCED,
    ),
    guard(
        "fsync of a replaced file's folder",
        PLACES,
        "os.replace(_written(file, data), file)\n    fsync_directory(file.parent)",
        "os.replace(_written(file, data), file)",
        DURABLE,
    ),
    guard(
        "fsync of a new folder's parent",
        PLACES,
        "fsync_directory(directory.parent)",
        "pass",
        f"{STORAGE}places.py::test_new_folders_are_durable_from_the_top_down",
    ),
    guard("fsync of a folder at all", PLACES, "        os.fsync(handle)", "        pass", DURABLE),
    guard("fsync of an index file", VECTORS, "os.fsync(file.fileno())", "pass", SYNCED),
    guard("fsync of an index folder", VECTORS, "places.fsync_directory(directory)", "pass", SYNCED),
    # one writer wins
    guard(
        "fail-if-exists of a record",
        PLACES,
        "os.link(temporary, file)\n    finally:\n        temporary.unlink()",
        "os.replace(temporary, file)\n    finally:\n        temporary.unlink(missing_ok=True)",
        f"{STORAGE}places.py::test_creating_what_is_there_changes_nothing",
    ),
    guard(
        "a taken number is a conflict",
        "storage/commits.py",
        "            places.create(self.path(commit.number), content)",
        "            places.replace(self.path(commit.number), content)",
        f"{STORAGE}commits.py::test_a_taken_number_is_a_conflict_and_changes_nothing",
        f"{PROOFS}concurrent.py::test_a_stale_writer_that_wakes_up_cannot_commit[number taken]",
    ),
    guard(
        "the commit lock",
        "storage/locks.py",
        "        held.acquire()\n",
        "        pass\n",
        f"{PROOFS}concurrent.py::test_a_stale_writer_that_wakes_up_cannot_commit[owner replaced]",
    ),
    guard(
        "lease check before publish",
        DRAFTING,
        "if not all(lease.still_held() for lease in self._leases):",
        "if False:",
        f"{STORAGE}transaction.py::test_a_lease_lost_while_the_window_is_written_is_noticed",
        f"{PROOFS}concurrent.py::test_a_stale_writer_that_wakes_up_cannot_commit[owner replaced]",
    ),
    guard(
        "the job's lease is asked too",
        DRAFTING,
        "[held, *([lease] if lease else [])]",
        "[held]",
        f"{STORAGE}transaction.py::test_a_lease_lost_while_the_window_is_written_is_noticed[ingest]",
    ),
    guard(
        "a lease is its nonce",
        "storage/locks.py",
        "return _nonce(self._sign) == self._nonce",
        "return self._sign.exists()",
        f"{STORAGE}locks.py::test_locks_removed_by_hand_let_another_in_and_the_first_one_out",
    ),
    guard(
        "only one's own sign is removed",
        "storage/locks.py",
        'if _nonce(sign) == owner["nonce"]:',
        "if sign.exists():",
        f"{STORAGE}locks.py::test_letting_go_of_a_lost_lock_does_not_take_it_from_its_new_holder",
    ),
    guard(
        "file-exists check before publish",
        DRAFTING,
        "if not places.exists(root / file.path):",
        "if False:",
        f"{PROOFS}clock.py::test_files_in_flight_are_never_missing_from_a_version",
    ),
    guard(
        "writers do not go on over damage",
        DRAFTING,
        "Snapshot.open(root, strict=True)",
        "Snapshot.open(root)",
        f"{STORAGE}transaction.py::test_a_writer_does_not_go_on_over_damage",
    ),
    # a window is whole
    guard(
        "twice check",
        TRANSACTION,
        "    if twice:",
        "    if False:",
        f"{STORAGE}transaction.py::test_an_item_is_either_new_or_refreshed",
    ),
    guard(
        "made_from check",
        TRANSACTION,
        "if have.get(item_id) != content:",
        "if False:",
        f"{STORAGE}transaction.py::test_vectors_of_what_an_item_was_are_a_conflict",
    ),
    guard(
        "a retired release is written to no more",
        TRANSACTION,
        "known is None or known.retired or",
        "known is None or",
        f"{STORAGE}transaction.py::test_a_retired_release_is_written_to_no_more",
    ),
    guard(
        "a release is its space",
        TRANSACTION,
        "or known.space_id != own.space_id:",
        "or False:",
        f"{STORAGE}transaction.py::test_a_release_that_is_not_there_is_a_conflict",
    ),
    guard(
        "old rows of refreshed items are masked",
        TRANSACTION,
        "old_items = pa.array([*new, *refreshed, *window.deleted], pa.string())",
        "old_items = pa.array([*new, *window.deleted], pa.string())",
        f"{STORAGE}transaction.py::test_new_attributes_reach_every_index",
    ),
    guard(
        "changed items leave every space",
        TRANSACTION,
        "for space in (before.head.spaces if before.head else ())",
        "for space in window.vectors if before.head",
        f"{STORAGE}transaction.py::test_changed_and_deleted_items_go_from_every_space",
    ),
    # the index is where the log says
    guard(
        "step-version check",
        VECTORS,
        "if found not in (expected, expected + 1):",
        "if False:",
        f"{STORAGE}transaction.py::test_a_table_that_moves_during_the_write_is_a_conflict",
    ),
    guard(
        "taking back what went wrong",
        VECTORS,
        "                table.restore(start)\n",
        "",
        f"{STORAGE}transaction.py::test_a_table_that_moves_during_the_write_is_a_conflict",
    ),
    guard(
        "restore to the named version",
        VECTORS,
        "table.restore(named.version)",
        "pass",
        f"{STORAGE}vectors.py::test_writing_starts_from_the_named_version",
    ),
    guard(
        "a new table has a name that nobody used",
        "storage/indexing.py",
        "max(snapshot.version, *taken, 0)",
        "max(*taken, 0)",
        f"{PROOFS}guards.py::test_a_space_that_comes_back_has_a_table_of_another_name",
    ),
    guard(
        "readers check the named version out",
        VECTORS,
        "table.checkout(named.version)",
        "pass",
        f"{STORAGE}vectors.py::test_later_versions_do_not_touch_the_named_one",
    ),
    guard(
        "use_index(False)",
        VECTORS,
        ".when_not_matched_insert_all().use_index(False)",
        ".when_not_matched_insert_all()",
        f"{PROOFS}concurrent.py::test_our_merges_do_not_duplicate",
    ),
    guard(
        "the key is declared",
        "storage/schemas.py",
        'key = {b"lance-schema:unenforced-primary-key": b"true"}',
        "key: dict[bytes, bytes] = {}",
        f"{STORAGE}vectors.py::test_the_key_is_declared",
        f"{PROOFS}concurrent.py::test_our_merges_do_not_duplicate",
    ),
    guard(
        "the rows of the named version are counted",
        VECTORS,
        "if held != named.rows:",
        "if False:",
        f"{PROOFS}guards.py::test_an_index_with_other_rows_than_the_log_says_is_made_anew",
    ),
    # no altered byte is read
    guard(
        "sealed checksum",
        "storage/commits.py",
        "if _sealed(body) != content:",
        "if False:",
        f"{STORAGE}commits.py::test_one_altered_byte_is_never_read_as_a_record",
    ),
    guard(
        "a record is the one of its number",
        "storage/commits.py",
        'if document["number"] != number:',
        "if False:",
        f"{STORAGE}commits.py::test_a_record_under_another_number_is_damage",
    ),
    guard(
        "records of later formats",
        "storage/commits.py",
        'if document["format"] > FORMAT:',
        "if False:",
        f"{PROOFS}drift.py::test_a_record_of_a_later_format_is_refused_by_readers_and_writers",
    ),
    guard(
        "a lost record keeps its number",
        "storage/commits.py",
        "_numbers(self.directory) | _numbers(self.copies)",
        "_numbers(self.directory)",
        f"{STORAGE}commits.py::test_a_lost_record_keeps_its_number",
    ),
    guard(
        "page checksums are verified",
        "storage/parquet.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        f"{STORAGE}parquet.py::test_a_flipped_byte_in_a_data_page_is_damage",
    ),
    guard(
        "page checksums are written",
        "storage/parquet.py",
        "write_page_checksum=True",
        "write_page_checksum=False",
        f"{STORAGE}parquet.py::test_a_flipped_byte_in_a_data_page_is_damage",
    ),
    guard(
        "a data file has the rows of its record",
        "storage/parquet.py",
        "    if found != file.rows:",
        "    if False:",
        f"{STORAGE}parquet.py::test_another_file_in_its_place_is_damage",
    ),
    guard(
        "sha check before DuckDB reads",
        "storage/verified.py",
        "if digest != file.sha256:",
        "if False:",
        f"{STORAGE}verified.py::test_files_that_were_swapped_are_refused",
    ),
    guard(
        "a touched file is hashed again",
        "storage/verified.py",
        "facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]",
        "facts.st_mtime_ns]",
        f"{STORAGE}verified.py::test_a_file_altered_in_place_with_its_old_time_is_refused",
    ),
    guard(
        "parts of a checkpoint are hashed",
        "storage/checkpoints.py",
        "if hashlib.sha256(content).hexdigest() != contents.parts[name]:",
        "if False:",
        f"{STORAGE}checkpoints.py::test_a_damaged_checkpoint_costs_nothing_but_a_warning",
    ),
    # maintenance changes no row
    guard(
        "masks carried over in compaction",
        "storage/compaction.py",
        "_masks_since(snapshot, draft.before, made))",
        "None)",
        f"{PROOFS}maintenance.py::test_what_is_committed_while_files_are_joined_is_taken_over[items]",
    ),
    guard(
        "files that left are not replaced",
        "storage/compaction.py",
        "if any(f.path not in draft.before.state.files for f in group.files):",
        "if False:",
        f"{PROOFS}maintenance.py::test_files_that_left_meanwhile_are_not_replaced",
    ),
    guard(
        "the lease of a compaction",
        "storage/compaction.py",
        "with drafting(root, snapshot, lease) as draft:",
        "with drafting(root, snapshot) as draft:",
        f"{PROOFS}maintenance.py::test_a_lost_lease_stops_maintenance",
    ),
    guard(
        "caught-up rows in a new generation",
        "storage/generations.py",
        "named = caught_up(lake, known, now, space_id, built)",
        "named = built",
        f"{PROOFS}maintenance.py::test_a_new_generation_has_what_was_committed_while_it_was_built",
    ),
    guard(
        "a new generation sees masks, too",
        "storage/generations.py",
        "        if len(new):\n",
        "        if False:\n",
        f"{PROOFS}maintenance.py::test_a_new_generation_has_what_was_committed_while_it_was_built",
    ),
    guard(
        "readable_from grace",
        "storage/retention.py",
        "max(timedelta(days=retention.days), GRACE)",
        "timedelta(days=retention.days)",
        f"{PROOFS}maintenance.py::test_nothing_of_the_last_hour_is_let_go",
    ),
    guard(
        "clocks that jump back",
        "storage/retention.py",
        'pc.cumulative_max(snapshot.history()["committed_at"].cast("int64")).to_numpy()',
        'snapshot.history()["committed_at"].cast("int64").to_numpy()',
        f"{PROOFS}clock.py::test_versions_of_the_last_days_are_kept_though_the_clock_jumped_between",
    ),
    guard(
        "needed_files before sweep",
        "storage/retention.py",
        "    gone = list(_needless(snapshot, files))",
        "    gone = list(files)",
        f"{PROOFS}guards.py::test_a_sweep_asks_once_more_what_is_needed",
    ),
    guard(
        "named tables before sweep",
        "storage/retention.py",
        "    dropped = [table for table in old_tables if table not in named]",
        "    dropped = list(old_tables)",
        f"{PROOFS}guards.py::test_a_sweep_asks_once_more_what_is_needed",
    ),
    guard(
        "files that left a kept version are needed",
        "storage/retention.py",
        "        paths |= set(log.read(number).removed)\n",
        "        pass\n",
        f"{PROOFS}guards.py::test_files_that_left_a_kept_version_are_needed",
    ),
    guard(
        "files of versions that releases name are needed",
        "storage/retention.py",
        "    for number in _named_versions(head):\n",
        "    for number in ():\n",
        f"{PROOFS}maintenance.py::test_a_version_that_a_release_names_stays_readable",
    ),
    guard(
        "recent files are left to their writers",
        "storage/retention.py",
        "places.walk(snapshot.root)) if entry.modified <= before]",
        "places.walk(snapshot.root))]",
        f"{PROOFS}maintenance.py::test_the_sweep_takes_what_nobody_needs_and_nothing_else",
    ),
    guard(
        "only our own names are swept",
        "storage/retention.py",
        "any(kind.fullmatch(entry.path) for kind in (DATA_FILE, BASIS_FILE, TEMPORARY))",
        "entry.path.startswith('data/')",
        f"{PROOFS}maintenance.py::test_the_sweep_takes_what_nobody_needs_and_nothing_else",
    ),
    guard(
        "what retention let go is not opened",
        "storage/snapshot.py",
        'return "expired" if at < head.readable_from and at not in named else "yes"',
        'return "yes"',
        f"{PROOFS}maintenance.py::test_versions_older_than_retention_are_let_go_and_younger_ones_are_not",
    ),
    # what was deleted is gone
    guard(
        "purged versions are not opened",
        "storage/snapshot.py",
        "if head.purged_at is not None and at < head.purged_at:",
        "if False:",
        f"{PROOFS}purge.py::test_versions_before_a_purge_cannot_be_read",
    ),
    guard(
        "every masked row is rewritten",
        "storage/maintenance.py",
        "compaction.groups(head, every_mask=True)",
        "compaction.groups(head)",
        f"{PROOFS}guards.py::test_a_purge_rewrites_files_with_a_single_masked_row",
    ),
    guard(
        "rows masked during a purge",
        "storage/maintenance.py",
        "        if now.masked:\n",
        "        if False:\n",
        f"{PROOFS}purge.py::test_rows_masked_while_it_runs_stop_a_purge",
    ),
    guard(
        "the lease of a purge",
        "storage/maintenance.py",
        "with drafting(root, head, ingest) as draft:",
        "with drafting(root, head) as draft:",
        f"{PROOFS}purge.py::test_a_purge_needs_both_leases[ingest]",
    ),
    guard(
        "spools are purged",
        "storage/maintenance.py",
        'for folder in ("_spool", "reports", *SPOOLS):',
        'for folder in ("reports", *SPOOLS):',
        f"{PROOFS}purge.py::test_what_was_deleted_is_nowhere",
    ),
    # releases in the making
    guard(
        "a space that is being built gets no index",
        TRANSACTION,
        "if head is not None and space in head.spaces and space not in named:",
        "if False:",
        f"{PROOFS}building.py::test_other_windows_make_no_index_for_it",
    ),
    guard(
        "a release without an index is not made live",
        "storage/releases.py",
        "if release.space_id not in head.indexes:",
        "if False:",
        f"{PROOFS}building.py::test_it_is_not_made_live_before_it_is_indexed",
    ),
    guard(
        "rows that were masked while they were mapped",
        BUILDING,
        "hit = taken | np.isin(one.rows, now.masked.get(one.source, np.empty(0, np.int64)))",
        "hit = taken",
        f"{PROOFS}building.py::test_a_deleted_item_that_is_added_again_gets_its_new_vector",
        f"{PROOFS}building.py::test_whatever_happens_meanwhile_no_item_has_an_old_vector[1]",
    ),
    guard(
        "files that were rewritten while they were mapped",
        BUILDING,
        "if one.source not in now.state.files:",
        "if False:",
        f"{PROOFS}building.py::test_what_cannot_be_appended_leaves_nothing[source]",
    ),
    guard(
        "a space with an index gets no files without it",
        BUILDING,
        "    if release.space_id in head.indexes:\n        raise",
        "    if False:\n        raise",
        f"{PROOFS}building.py::test_what_cannot_be_appended_leaves_nothing[index]",
    ),
    guard(
        "chunks that a space got meanwhile",
        BUILDING,
        "if f.since > known.version]",
        "if False]",
        f"{PROOFS}building.py::test_rows_that_the_space_got_meanwhile_are_not_added_again",
    ),
    guard(
        "files that are committed already",
        BUILDING,
        "if one.written.path not in named]",
        "]",
        f"{PROOFS}building.py::test_the_same_files_twice_are_one_commit",
    ),
    guard(
        "an index over files that left",
        "storage/generations.py",
        "if not _rewritten(known, now, space_id):",
        "if True:",
        f"{PROOFS}building.py::test_an_index_is_built_again_if_files_were_joined_meanwhile",
    ),
    guard(
        "an index that is made during a purge",
        "storage/maintenance.py",
        "if now.head.indexes.keys() != built.keys():",
        "if False:",
        f"{PROOFS}building.py::test_an_index_that_is_made_during_a_purge_stops_it",
    ),
    guard(
        "what a bridge leads through is there",
        DRAFTING,
        "        if stranded:\n",
        "        if False:\n",
        f"{PROOFS}building.py::test_a_release_that_is_another_is_a_conflict",
    ),
    guard(
        "what a bridge leads through is not retired",
        "storage/retention.py",
        "        if not going & needed:\n",
        "        if True:\n",
        f"{PROOFS}maintenance.py::test_a_release_that_a_bridge_leads_through_stays_as_long_as_the_bridge",
    ),
    guard(
        "live files are not discarded",
        DRAFTING,
        "        if file.path not in live:\n",
        "        if True:\n",
        f"{PROOFS}building.py::test_files_that_are_live_are_never_discarded",
    ),
    # bases and spools
    guard(
        "sha check of a basis",
        "storage/bases.py",
        "if hashlib.sha256(content).hexdigest() != basis.file.sha256:",
        "if False:",
        f"{PROOFS}bases.py::test_a_damaged_basis_is_never_read",
    ),
    guard(
        "a basis that is named is not overwritten",
        "storage/bases.py",
        "if known is not None and known != file and",
        "if False and",
        f"{PROOFS}bases.py::test_what_a_release_names_is_not_overwritten",
    ),
    guard(
        "files of releases are needed",
        "storage/retention.py",
        "return paths | {file.path for file in files_of_releases(log, head)}",
        "return paths",
        f"{PROOFS}bases.py::test_leftover_bases_are_told_and_swept",
    ),
    guard(
        "page checksums of kept vectors",
        "storage/kept.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        f"{PROOFS}kept.py::test_a_file_that_is_not_whole_is_passed_over_with_one_warning",
    ),
    guard(
        "kept vectors are purged",
        "storage/maintenance.py",
        'for folder in ("_spool", "reports", *SPOOLS):',
        'for folder in ("_spool", "reports"):',
        f"{PROOFS}kept.py::test_a_purge_empties_the_spools",
    ),
    # SQL only reads
    guard(
        "read-only node check in the sandbox",
        "storage/sandbox.py",
        'if strange or tree.get("error"):',
        'if tree.get("error"):',
        f"{STORAGE}sandbox.py::test_nothing_is_written_or_changed",
    ),
    guard(
        "the door is locked",
        "storage/sandbox.py",
        '        "lock_configuration = true",\n',
        "",
        f"{STORAGE}sandbox.py::test_the_settings_that_lock_the_door_are_in_force",
    ),
    guard(
        "one statement at a time",
        "storage/sandbox.py",
        "if len(statements) != 1:",
        "if not statements:",
        f"{STORAGE}sandbox.py::test_two_statements_are_refused_though_both_only_read",
    ),
    # what an ingest may conclude
    guard(
        "a stream that loses items",
        "tasks/commit.py",
        "    if done != plan.to_encode:",
        "    if False:",
        "tests/tasks/test_ingest.py::test_a_stream_that_loses_items_is_not_reported_as_done",
    ),
    guard(
        "absence means deletion only after a complete pull",
        "tasks/diff.py",
        "sure = complete and not self.blocked",
        "sure = complete",
        "tests/tasks/test_ingest.py::test_a_row_that_cannot_be_identified_blocks_deletions",
    ),
    guard(
        "ids are unique in a pull",
        "tasks/diff.py",
        "        if twice:\n",
        "        if False:\n",
        "tests/tasks/test_ingest.py::test_duplicate_ids_in_one_pull_are_an_error_that_names_the_rows",
    ),
    guard(
        "a pull that would delete much",
        "tasks/diff.py",
        "if total and gone.sum() > max_deleted * total and not yes:",
        "if False:",
        "tests/tasks/test_ingest.py::test_a_pull_that_would_delete_much_is_refused",
    ),
    guard(
        "vectors of two encoders are not mixed",
        "tasks/steps.py",
        "            _require_known(name, settings.encoder, facts, head)\n",
        "",
        f"{PROOFS}drift.py::test_another_encoder_under_the_same_name_is_refused",
    ),
    guard(
        "chunks of two chunkings are not mixed",
        "tasks/steps.py",
        "        if not originals.is_cut_as(project, settings.chunk, head, release, facts):",
        "        if False:",
        f"{PROOFS}drift.py::test_another_chunking_is_refused",
    ),
    guard(
        "queries are of the encoder of the rows",
        "tasks/releases.py",
        "        if facts.fingerprint == release.fingerprint:\n",
        "        if True:\n",
        f"{PROOFS}drift.py::test_a_model_whose_files_changed_answers_no_query",
    ),
    guard(
        "a release that lacks vectors is not made live",
        "tasks/releases.py",
        "    if lacking and not yes:",
        "    if False:",
        f"{PROOFS}releases.py::test_a_release_that_lacks_vectors_is_not_made_live",
    ),
]

FAST = {"twice check"}


def test_every_snippet_stands_in_its_file_once():
    """The list cannot rot: each guard is where it says, each has a name of its own, each mutation is one."""
    gone = [g.name for g in GUARDS if (ROOT / g.file).read_text().count(g.snippet) != 1]
    assert gone == []
    assert len({g.name for g in GUARDS}) == len(GUARDS)
    assert all(g.snippet != g.mutated and g.tests for g in GUARDS)
    for one in GUARDS:
        mutated = (ROOT / one.file).read_text().replace(one.snippet, one.mutated)
        compile(mutated, one.file, "exec")


# Forks of a process that has imported what is heavy, and nothing of ours, run the tests: a second each.
SERVER = """
import json, os, sys, tempfile, traceback, warnings
import duckdb, filelock, hypothesis.stateful, lancedb, lancedb.index, numpy, pyarrow.compute, pyarrow.dataset
import pyarrow.parquet, pydantic, pytest, yaml
warnings.simplefilter("ignore", RuntimeWarning)  # LanceDB: forking is experimental; nothing ran before it
sys.dont_write_bytecode = True

class Outcomes:
    def __init__(self):
        self.found = {}
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            worse = self.found.get(report.nodeid) == "failed"
            self.found[report.nodeid] = "failed" if worse else report.outcome

for line in sys.stdin:
    folder, nodes = json.loads(line)
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(folder)
            sys.path[:] = [folder] + [p for p in sys.path if p not in ("", folder)]
            os.environ["PYTHONPATH"] = folder
            seen = Outcomes()
            options = ["-q", "--tb=line", "-p", "no:cacheprovider", "-o", "timeout=120", "-m", "not gpu"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            try:
                code = pytest.main([*options, *nodes], plugins=[seen])
                import storage
                inside = storage.__file__.startswith(folder)
                with open(os.path.join(folder, "outcomes.json"), "w") as file:
                    json.dump({"code": int(code), "outcomes": seen.found, "inside": inside}, file)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(child, 0)
        output.seek(0)
        said = output.read()
    try:
        with open(os.path.join(folder, "outcomes.json")) as file:
            done = json.load(file)
        os.remove(os.path.join(folder, "outcomes.json"))
    except FileNotFoundError:
        done = {"code": -1, "outcomes": {}, "inside": False}
    print(json.dumps({**done, "said": said[-3000:]}), flush=True)
"""


class Bench:
    """A copy of the tree, whose guards are taken out one at a time, and a process that runs tests in it."""

    def __init__(self, folder):
        self.folder = folder
        for name in (*PACKAGES, "tests"):
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "results.json")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, nodes):
        self.process.stdin.write(json.dumps([str(self.folder), list(nodes)]) + "\n")
        self.process.stdin.flush()
        done = json.loads(self.process.stdout.readline())
        assert done["inside"], f"the copy was not what was tested: {done['said']}"
        return done

    def without(self, one):
        """Run a guard's tests without it; test by test, those of its cases that failed."""
        path = self.folder / one.file
        whole = path.read_text()
        path.write_text(whole.replace(one.snippet, one.mutated))
        try:
            done = self.run(one.tests)
        finally:
            path.write_text(whole)
        assert done["code"] == 1, f"{one.name}: {done['said']}"
        red = {node for node, outcome in done["outcomes"].items() if outcome == "failed"}
        return {test: [node for node in red if node.startswith(test)] for test in one.tests}

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("bench") / "tree")
    yield made
    made.close()


@pytest.mark.slow
def test_the_tests_of_the_guards_pass_with_them(bench):
    """What goes red below is green in the copy as it is."""
    nodes = sorted({test for g in GUARDS for test in g.tests})
    done = bench.run(nodes)
    assert done["code"] == 0, done["said"]
    assert len(done["outcomes"]) >= len(nodes)


@pytest.mark.parametrize(
    "name", [pytest.param(g.name, marks=[] if g.name in FAST else [pytest.mark.slow]) for g in GUARDS]
)
def test_without_a_guard_a_test_goes_red(bench, name):
    """Take one guard out, and each of the tests that are named for it fails."""
    (one,) = [g for g in GUARDS if g.name == name]
    red = bench.without(one)
    assert all(red.values()), f"still green: {[test for test, nodes in red.items() if not nodes]}"


# ---- guards that no other test would miss


def test_an_index_with_other_rows_than_the_log_says_is_made_anew(toy, lake, commit, head, caplog):
    """A table whose named version has lost rows is not built upon: the next generation has all of them."""
    import lancedb

    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    named = commit(toy.window(items)).index
    shutil.rmtree(lake / "index" / f"{named.table}.lance")
    table = lancedb.connect(lake / "index").create_table(named.table, toy.index_table({"a": items["a"]}))
    while table.version < named.version:
        table.add(toy.index_table({}))
    commit(toy.window({"c": toy.Item("three")}))
    assert "holds 1 rows, the log says 2" in caplog.text
    toy.assert_is(lake, head(), {**items, "c": toy.Item("three")})


def test_a_space_that_comes_back_has_a_table_of_another_name(tale, lake, maintain):
    """Who reads an earlier version must not find the rows of today under the name that it has."""
    from storage.releases import make_live

    toy = tale.toy
    tale.grow(2)
    before = tale.head.head.indexes[toy.SECOND_SPACE].table
    make_live(lake / "docs", 2, "promote", "run")
    make_live(lake / "docs", 1, "rollback", "run")
    assert maintain(releases=0).retired == [2]
    shutil.rmtree(lake / "index" / f"{before}.lance", ignore_errors=True)
    tale.second = toy.SECOND.model_copy(update={"release": 3})
    tale.fill(1.0)
    assert tale.head.head.indexes[toy.SECOND_SPACE].table != before
    tale.is_live()


def test_a_sweep_asks_once_more_what_is_needed(tale, lake):
    """A list of what to remove that was made before a commit does not make it remove what that named."""
    from storage import places, retention

    tale.grow(3)
    head = tale.head
    files = [e for e in places.walk(lake / "docs") if e.path.startswith("data/")]
    tables = [index.table for index in head.head.indexes.values()]
    assert retention.sweep(lake, head, files, tables) == 0
    tale.is_live()
    for version in tale.told:
        tale.holds(version)


def test_files_that_left_a_kept_version_are_needed(tale, lake, maintain):
    """What compaction replaced is not swept as long as a version that has it can be read."""
    import os

    tale.grow(3)
    maintain()
    for path in lake.rglob("*"):
        os.utime(path, (1, 1))
    assert maintain().removed == 0
    for version in tale.told:
        tale.holds(version)


def test_a_purge_rewrites_files_with_a_single_masked_row(toy, lake, commit, purge, monkeypatch):
    """However large a file and small the share that is masked, the row goes."""
    from storage import compaction

    monkeypatch.setattr(compaction, "SMALL_ROWS", 4)
    items = {f"i{k}": toy.Item(f"text{k}") for k in range(40)}
    commit(toy.window(items))
    commit(toy.window(deleted=["i7"]))
    assert compaction.groups(Snapshot.open(lake / "docs")) == [], "maintenance would leave it"
    purge()
    head = Snapshot.open(lake / "docs")
    assert head.masked == {}
    stored = [r["item_id"] for _, _, t in head.read("items", ["item_id"]) for r in t.to_pylist()]
    assert sorted(stored) == sorted(set(items) - {"i7"})
    assert sum(f.rows for f in head.files("items")) == 39
