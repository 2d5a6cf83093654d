"""The act of the demo in which the encoder changes: measured, carried over, improved, and taken back."""

from dataclasses import asdict
from typing import Protocol

from flows.backfill import BackfillRequest, fill
from flows.probe import measure
from flows.show import ShownProgress, hit_rows, option_rows, probe_sentences, table
from flows.upgrade import UpgradeRequest, carry_out
from tasks import reader, releases
from tasks.backfill import Budget
from tasks.decision import Wish
from tasks.errors import GateRefused, Refused
from tasks.probe import ProbeAsk
from tasks.project import Project

LABEL = "split_part(item_id, '/', 1)"
SAMPLE = 1_000
QUESTION = "read the lines of a compressed file"


class Teller(Protocol):
    """Who tells the story."""

    def say(self, text: str) -> None: ...

    def command(self, words: str) -> None: ...

    def step(self, name: str, result: dict[str, object]) -> None: ...


def change_the_encoder(project: Project, story: Teller) -> None:
    """From three layers of MiniLM to all six, and back."""
    ask = ProbeAsk("minilm", SAMPLE, label=LABEL, families="linear")
    asked = f'--to minilm --sample {SAMPLE} --families linear --label "{LABEL}"'
    story.command(f"probe docs {asked}")
    found = measure(project, "docs", ask, ShownProgress("encoded")).probed
    story.say("\n".join(probe_sentences(found)))
    story.say(table(option_rows(found)))
    story.say(f"verdict: {found.verdict.strategy}: {found.verdict.reason}\n")
    story.step("probe", {"verdict": found.verdict.strategy, "reason": found.verdict.reason})
    _search(project, story, "before")
    if not _upgraded(project, story, ask, asked):
        return
    _search(project, story, "after")
    rows = found.rows // 10
    story.command(f"backfill docs --budget {rows}rows")
    filled = fill(project, BackfillRequest("docs", Budget(rows=rows)), ShownProgress())
    story.say(
        f"{filled.reencoded:,} rows encoded, {filled.folded:,} taken from what the search had encoded: "
        f"coverage {filled.coverage_before:.0%} before, {filled.coverage_after:.0%} after\n"
    )
    story.step("backfill", asdict(filled))
    story.command("rollback docs")
    moved = releases.rollback(project, "docs", yes=False, dry_run=False)
    story.say(f"release {moved.live} is live again, as if nothing had happened; `evervec promote docs "
              f"{moved.previous}` makes the other live")  # fmt: skip
    story.step("rollback", asdict(moved))


def _upgraded(project: Project, story: Teller, ask: ProbeAsk, asked: str) -> bool:
    """Carry the verdict out, if the gate lets it through without asking; whether it did."""
    story.command(f"upgrade docs {asked}")
    try:
        report = carry_out(project, UpgradeRequest("docs", ask, Wish()), ShownProgress("done"))
    except (GateRefused, Refused) as error:
        story.say(f"evervec: {error}\n")
        story.step("upgrade", {"refused": str(error)})
        return False
    cascade = f" with a cascade of {report.cascade}" if report.cascade else ""
    story.say(
        f"release {report.release} ({report.strategy}{cascade}) is live after {report.seconds:.1f} s: "
        f"{report.rows:,} rows, {report.encoded:,} encoded, {report.mapped:,} mapped\n"
    )
    story.step("upgrade", asdict(report))
    return True


def _search(project: Project, story: Teller, when: str) -> None:
    story.command(f'search docs "{QUESTION}" -k 3')
    with reader.open(project) as lake:
        found = lake.search("docs", QUESTION, 3)
    story.say(table(hit_rows(found)) + "\n")
    story.step("search", {"query": QUESTION, "when": when, "hits": [h.item_id for h in found.hits]})
