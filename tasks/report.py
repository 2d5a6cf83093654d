"""The report of a probe: one self-contained page that says what to do, and shows why."""

from collections.abc import Mapping
from pathlib import Path

from tasks import report_evidence, report_options, report_verdict, wording
from tasks.markup import document, escaped, isolated, row, table
from tasks.probed import Probed
from tasks.wording import count, percent

_GLOSSARY = {
    "space": "What one encoder writes its vectors into. Vectors can be compared inside one space only, so a "
    "new encoder cannot read what the old one stored.",
    "status quo": "Today's search: the old encoder asks, the old rows answer. What does not beat it is not "
    "worth a move.",
    "naive swap": "The new encoder asks, the old rows answer, and nothing is done to either: what happens to "
    "those who only replace the model.",
    "ceiling": "Everything encoded again with the new encoder: what the move gives at its full price.",
    "gap closed": "How far an option gets from the status quo (0 %) to the ceiling (100 %). Below 0 % it is "
    "worse than today.",
    "bridge": "A fitted formula turns each new query into an old one. No stored row is touched, but the old "
    "rows limit what can be found.",
    "map": "A fitted formula turns each stored vector into a new one. It takes minutes where encoding takes "
    "hours, and loses some quality.",
    "cascade": "The best few candidates of a search are encoded by the new encoder and ranked again: better "
    "answers, and a slower query until they are kept.",
}
_MEASURED = (
    "The pairs that bases were fitted on share no item with the queries and the rows searched, and a query "
    "that is an item does not find itself. "
    "Intervals are 95 % intervals from a bootstrap over the queries; gains are paired, query by query, with "
    "the status quo. Gap closed is (score − status quo) / (ceiling − status quo). Before it is used, the "
    "basis of the verdict is fitted once more on all pairs; the numbers here stay the held-out ones."
)


def page(probed: Probed) -> str:
    """The report as HTML: nothing is loaded from elsewhere, texts of any origin are escaped.

    Sections without data are left out.
    """
    sections = [
        ("options", "Every option", report_options.table_of_options(probed)),
        ("cost", "Quality against cost", report_options.tradeoff(probed)),
        ("families", "What was fitted", report_evidence.families(probed)),
        ("pairs", "How many pairs it takes", report_evidence.pairs(probed)),
        ("backfill", "While rows are encoded", report_evidence.backfill(probed)),
        ("scores", "Raw scores by origin", report_evidence.scores(probed)),
        ("samples", "Sample queries", report_evidence.samples(probed)),
        ("method", "How it was measured", _method(probed)),
        ("words", "Words", _glossary()),
    ]
    shown = [(key, title, content) for key, title, content in sections if content]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>\n{content}\n'
        "</section>\n"
        for key, title, content in shown
    )
    return document(
        f"{probed.collection}: probe of {probed.to_encoder}"[:200],
        Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
        f"{_header(probed)}<main>\n{report_verdict.verdict(probed)}"
        f'<nav aria-label="Sections">{links}</nav>\n{body}</main>\n',
    )


def _header(probed: Probed) -> str:
    return (
        f"<header><h1>Can {isolated(probed.collection)} move to {isolated(probed.to_encoder, 120)}?</h1>\n"
        f'<p class="dim">Probe {isolated(probed.id)}, {isolated(probed.made_at)}, of version '
        f"{count(probed.version)}: from {isolated(probed.from_model, 120)} to "
        f"{isolated(probed.to_model, 120)}. Nothing was changed.</p></header>\n"
    )


def _method(probed: Probed) -> str:
    """What an engineer needs to do it again."""
    data = {
        "Collection": f"{probed.collection}, version {count(probed.version)}",
        "Size": f"{count(probed.rows, 'row')} of {count(probed.items, 'item')}",
        "Items drawn": count(probed.sample),
        "Pairs fitted on": count(probed.pairs),
        "Rows searched": f"{count(probed.gallery)}, held out",
        "Queries": f"{count(probed.queries)}, held out",
        "Seed": str(probed.seed),
    }
    truth = {
        "What counts as right": wording.tier(probed),
        "Metric": probed.metric,
        "Least share of the gap to close": percent(probed.min_gap_closed),
    }
    if probed.queries_hash is not None:
        truth["Hash of the queries"] = probed.queries_hash
    encoders = {
        "Old": f"{probed.from_model}, space {probed.from_space}",
        "New": f"{probed.to_model}, space {probed.to_space}, called {probed.to_encoder}",
    }
    left_out = {
        "Longer than the new encoder reads": count(probed.too_long),
        "Unreadable": count(probed.unreadable),
        "Changed since they were stored": count(probed.changed),
        "Queries with unknown answers": count(probed.queries_unknown),
    }
    machine = {"Machine": probed.machine, "Rows encoded a second": f"{probed.rows_per_second:,.1f}"}
    tables = (
        _facts("Data", data),
        _facts("Truth", truth),
        _facts("Left out or cut", left_out),
        _facts("Encoders", encoders | {f"Fingerprint of {k}": v for k, v in probed.fingerprints.items()}),
        _facts("Machine", machine | dict(probed.versions)),
    )
    return f'<div class="facts">{"".join(tables)}</div>\n<p>{_MEASURED}</p>'


def _facts(title: str, facts: Mapping[str, str]) -> str:
    return table(title, (), (row(isolated(what, 120), [isolated(is_, 200)]) for what, is_ in facts.items()))


def _glossary() -> str:
    words = (f"<div><dt>{word}</dt><dd>{escaped(said)}</dd></div>" for word, said in _GLOSSARY.items())
    return f'<dl class="words">{"".join(words)}</dl>'
