"""The frame of our self-contained HTML pages, its tables, and how text of unknown origin gets into them."""

import html
import re
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #62676d; --paper: #f7f7f5; --card: #fff;
  --line: #dcdcd8; --mark: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --dim: #9aa0a6; --paper: #16181a; --card: #1f2225;
    --line: #33373b; --mark: #6cb2ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 3rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.1rem; font-weight: 600; }
.dim { color: var(--dim); font-size: .82rem; overflow-wrap: anywhere; }
"""

_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def document(title: str, style: str, body: str) -> str:
    """A whole page; `style` comes after the common one. Nothing in the frame is loaded from elsewhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}</body>\n"
        "</html>\n"
    )


def escaped(text: str, longest: int = 600) -> str:
    """Text for an element or a quoted attribute, cut after `longest` characters.

    Control characters and halves of surrogate pairs, which HTML does not allow, become U+FFFD.
    """
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return html.escape(_UNSHOWABLE.sub("\ufffd", cut), quote=True)


def isolated(text: str, longest: int = 600) -> str:
    """The same as an element whose writing direction cannot turn what stands around it."""
    return f"<bdi>{escaped(text, longest)}</bdi>"


def table(caption: str, heads: Sequence[str], rows: Iterable[str], *, kind: str = "", foot: str = "") -> str:
    """A table with its caption and column headers, of HTML; rows are `row`s, or bodies that hold some."""
    named = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(rows)
    body = body if body.startswith("<tbody") else f"<tbody>{body}</tbody>"
    return (
        f"<table{classed(kind)}><caption><span>{caption}</span></caption><thead><tr>{named}</tr></thead>"
        f"{body}{f'<tfoot>{foot}</tfoot>' if foot else ''}</table>"
    )


def row(head: str, cells: Iterable[str], kind: str = "") -> str:
    """A row of HTML cells under its header."""
    return f'<tr{classed(kind)}><th scope="row">{head}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def classed(kind: str) -> str:
    """The attribute for a class of the style sheet; nothing for none."""
    return f' class="{kind}"' if kind else ""


def dim(content: str) -> str:
    """HTML in small print."""
    return f'<span class="dim">{content}</span>'


def hidden(text: str) -> str:
    """Words for those who hear the page."""
    return f'<span class="hidden">{text}</span>'
