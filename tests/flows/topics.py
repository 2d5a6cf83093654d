"""Texts on topics, encoders that drift, and the command line on both, in the process of the tests."""

import contextlib
import io
import json
import random
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flows import cli
from flows.settings import load_project
from tasks import reader
from tests.encoders import drifting

TOPICS = 8
ASK = ("--to", "new", "--label", "topic", "--sample", "160", "--families", "linear")
"""What every probe of these texts is asked, so that all of them share one."""

_SWEPT = (
    "is an index that the newest version does not use",
    "is not committed (yet): a run writes it, or died",
    "was left behind by",
)
"""What `doctor` says of what no version names."""

PLAIN = (*ASK, "--cascade", 0)
WAYS = {
    "bridge": (*PLAIN, "--strategy", "bridge"),
    "bridge and cascade": (*ASK, "--strategy", "bridge"),
    "map": (*PLAIN, "--strategy", "map"),
    "map and cascade": (*ASK, "--strategy", "map"),
    "reencode": (*PLAIN, "--strategy", "reencode"),
    "reuse": ("--to", "same", "--strategy", "reuse", *PLAIN[2:]),
}

CONFIG = """
    lake: ./lake
    encoders:
      old: {python: "drifting:Old"}
      new: {python: "drifting:New"}
      newer: {python: "drifting:Newer"}
      same: {python: "drifting:Same"}
      worse: {python: "drifting:Worse"}
      constant: {python: "drifting:Constant"}
      pictures: {model: "builtin:image-scatter"}
    collections:
      docs:
        source: {kind: table, path: rows.jsonl, id: id, text: text, attributes: [topic, n]}
        encoder: old
        max_deleted: 1.0
        RETAIN
"""


def texts(count: int) -> dict[str, dict[str, object]]:
    """Rows by id: half of the words of each text are those of its topic, the others anybody's."""
    draw = random.Random(0)

    def word() -> str:
        return "".join(
            draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.randint(2, 3))
        )

    common = [word() for _ in range(60)]
    own = [[word() for _ in range(4)] for _ in range(TOPICS)]
    rows = {}
    for n in range(count):
        words = draw.choices(own[n % TOPICS], k=6) + draw.choices(common, k=6)
        draw.shuffle(words)
        rows[f"d{n:04d}"] = {"text": " ".join(words), "topic": f"t{n % TOPICS}", "n": n}
    return rows


class Desk:
    """A project in a folder, and its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def made(cls, folder: Path, count: int = 240, retain: str = "") -> "Desk":
        """A project of so many texts, not yet ingested."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(drifting.__file__, folder / "drifting.py")
        (folder / "evervec.yaml").write_text(textwrap.dedent(CONFIG.replace("RETAIN", retain)))
        desk = cls(folder)
        desk.write(texts(count))
        return desk

    def copied(self, folder: Path, *, kept: bool = True) -> "Desk":
        """The same with all that was done so far, but what searches `kept` if so."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        if not kept:
            shutil.rmtree(folder / "lake" / "docs" / "_kept", ignore_errors=True)
        return Desk(folder)

    def write(self, rows: dict[str, dict[str, object]]) -> None:
        """What the source holds from now on."""
        lines = [json.dumps({"id": item_id, **row}) for item_id, row in rows.items()]
        (self.folder / "rows.jsonl").write_text("\n".join(lines))

    def rows(self) -> dict[str, dict[str, object]]:
        """What the source holds."""
        rows = map(json.loads, (self.folder / "rows.jsonl").read_text().splitlines())
        return {row.pop("id"): row for row in rows}

    def configure(self, old: str, new: str) -> None:
        """Change a part of evervec.yaml."""
        path = self.folder / "evervec.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def evervec(self, *words: object, code: int = 0):
        """Run a command as a user would; its JSON."""
        said, failed = self._run(*words, "--json", code=code)
        found = json.loads(said)
        if code and "error" in found:
            assert found["exit_code"] == code
            assert found["error"] in failed
        return found

    def said(self, *words: object, code: int = 0) -> str:
        """Run a command; what a person sees, with what goes to stderr."""
        return "".join(self._run(*words, code=code))

    def _run(self, *words: object, code: int) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        ended: object = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main(["-C", str(self.folder), *map(str, words)])
            except SystemExit as exit_:
                ended = exit_.code
        assert ended == code, (words, ended, out.getvalue(), err.getvalue())
        return out.getvalue(), err.getvalue()

    def refused(self, *words: object, code: int) -> str:
        """The message of a command that ends with this exit code."""
        return str(self.evervec(*words, code=code)["error"])

    @contextlib.contextmanager
    def reader(self) -> Iterator[reader.Reader]:
        with reader.open(load_project(self.folder)) as lake:
            yield lake

    def sql(self, query: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = self.evervec("sql", query)["rows"]
        return rows

    def hits(self, query: str, k: int = 10, release: int | None = None) -> list[tuple[str, float]]:
        """Ids and scores of a search, best first."""
        pinned = reader.Pinned(release) if release else None
        with self.reader() as lake:
            found = lake.search("docs", query, k, release=pinned)
        return [(h.item_id, round(h.score, 5)) for h in found.hits]

    def on_topic(self, queries: int = 24, k: int = 10) -> float:
        """The share of first hits that are on the topic of the query, one of the texts themselves."""
        rows = self.rows()
        shares = []
        with self.reader() as lake:
            for item_id in list(rows)[:queries]:
                found = lake.search("docs", str(rows[item_id]["text"]), k + 1).hits
                others = [h.item_id for h in found if h.item_id != item_id][:k]
                shares.append(np.mean([rows[i]["topic"] == rows[item_id]["topic"] for i in others]))
        return float(np.mean(shares))

    def whole(self, *, busy: bool = False) -> None:
        """`doctor --deep` finds nothing but what the next sweep takes, and every key is there once.

        Of that there is more while somebody is `busy`, or died.
        """
        report = self.evervec("doctor", "docs", "--deep")
        told = [n for n in report["notices"] if not n["what"].startswith(_SWEPT if busy else _SWEPT[:1])]
        assert (report["findings"], told) == ([], []), report
        twice = """
            SELECT space_id, item_id, chunk_no FROM docs_vectors GROUP BY ALL HAVING count(*) > 1
        """
        assert self.sql(twice) == []

    def head(self) -> tuple[int, int]:
        """The live release and the version."""
        live = self.evervec("status", "docs")["live"]
        return live["release"], live["version"]

    def origins(self) -> dict[str, dict[str, int]]:
        """Rows by origin of each space, as SQL counts them; they are those of `status`."""
        query = "SELECT space_id, origin, count(*) AS n FROM docs_vectors GROUP BY ALL"
        found: dict[str, dict[str, int]] = {}
        for row in self.sql(query):
            found.setdefault(row["space_id"], {})[row["origin"]] = row["n"]
        for space in self.evervec("status", "docs")["spaces"]:
            held = {o: space[o] for o in ("encoded", "mapped", "imported") if space[o]}
            assert found.get(space["space_id"], {}) == held
        return found
