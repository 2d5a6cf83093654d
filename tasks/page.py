"""A search as one self-contained HTML page: the query and its hits, to be looked at and listened to."""

import base64
import html
from pathlib import Path

from encoders.errors import RowError
from encoders.spec import Modality
from tasks.markup import document
from tasks.media import Contents
from tasks.project import Project
from tasks.questions import Query
from tasks.reader import Found, Hit
from tasks.sources.catalog import cells_of

_LONGEST_TEXT = 600
_QUERY_MILLISECONDS = 30_000

_STYLE = """
.query { display: flex; gap: 1rem; align-items: center; margin: 1.25rem 0 1.75rem; font-size: 1.25rem; }
.query img { max-height: 10rem; border-radius: 6px; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(var(--least), 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .75rem; min-width: 0; }
li header { display: flex; justify-content: space-between; gap: .5rem; margin-bottom: .5rem; }
li header b { overflow-wrap: anywhere; }
.score { color: var(--mark); font-variant-numeric: tabular-nums; white-space: nowrap; }
.frame { display: flex; height: 12rem; align-items: center; justify-content: center; margin-bottom: .5rem; }
.frame img { max-width: 100%; max-height: 100%; border-radius: 4px; }
audio { width: 100%; margin-bottom: .35rem; }
.query audio { max-width: 30rem; }
p { margin: 0 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def page(project: Project, collection: str, query: Query, found: Found) -> str:
    """The page; an item whose file is gone says so in its place. Nothing in it is loaded from elsewhere."""
    contents = Contents(cells_of(project.collection(collection).source))
    cards = "\n".join(_card(contents, found.modality, hit) for hit in found.hits)
    what = f"{len(found.hits)} {'hit' if len(found.hits) == 1 else 'hits'} in {collection}"
    where = f"release {found.release}, space {found.space_id}, version {found.version}"
    least = {"text": "22rem", "image": "13rem", "audio": "19rem"}[found.modality]
    body = (
        f'<h1>{html.escape(what)}</h1>\n<div class="dim">{html.escape(where)}</div>\n'
        f'<div class="query">{_query(query)}</div>\n<ol style="--least: {least}">\n{cards}\n</ol>\n'
    )
    return document(what, _STYLE, body)


def _query(query: Query) -> str:
    if isinstance(query, str):
        return f"<div>{html.escape(query)}</div>"
    content = query.path.read_bytes()
    shown = _media(content, query.modality, query.path.name, 0, _QUERY_MILLISECONDS)
    return f'{shown}<div class="dim">{html.escape(str(query.path))}</div>'


def _card(contents: Contents, modality: Modality, hit: Hit) -> str:
    times = ""
    if modality == "text":
        text = hit.text or ""
        shown = f"<p>{html.escape(text[:_LONGEST_TEXT])}{'…' if len(text) > _LONGEST_TEXT else ''}</p>"
    else:
        try:
            shown = _media(contents.raw(hit.uri), modality, hit.item_id, hit.chunk_start, hit.chunk_end)
        except RowError as error:
            shown = f'<p class="dim">{html.escape(str(error))}</p>'
        if modality == "audio":
            times = f"<div>{hit.chunk_start / 1000:.1f}–{hit.chunk_end / 1000:.1f} s</div>"
    return (
        f'<li><header><b>{hit.rank}. {html.escape(hit.item_id)}</b><span class="score">{hit.score:.4f}</span>'
        f'</header>{shown}{times}<div class="dim">{html.escape(hit.uri)}</div></li>'
    )


def _media(content: bytes, modality: Modality, name: str, start: int, end: int) -> str:
    from encoders.previews import clip, thumbnail

    if modality == "image":
        said = html.escape(name, quote=True)
        return f'<div class="frame"><img alt="{said}" src="{_uri("image/jpeg", thumbnail(content))}"></div>'
    return (
        f'<audio controls preload="metadata" src="{_uri("audio/mpeg", clip(content, start, end))}"></audio>'
    )


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write(path: Path, text: str) -> None:
    """Put a page where a browser finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
