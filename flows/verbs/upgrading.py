"""Verbs of changing the encoder: measure, upgrade, backfill."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.verbs.invocation import project_of, search_of, usage, where

if TYPE_CHECKING:
    from tasks.probe import ProbeAsk
    from tasks.project import Project


def probe(options: argparse.Namespace) -> int:
    """Measure every way to a new encoder, and write the report."""
    from flows.probe import measure
    from flows.show import ShownProgress, lines, next_command, option_rows, probe_sentences, table
    from tasks.probed import to_json

    project = project_of(options)
    report = measure(project, options.collection, _ask(options, project), ShownProgress())
    found = report.probed
    if options.json:
        print(json.dumps({**to_json(found), "report": report.page}))
    else:
        lines(probe_sentences(found))
        print(table(option_rows(found)))
        lines(f"note: {note}" for note in found.notes)
        print(f"verdict: {found.verdict.strategy}: {found.verdict.reason}")
        print(f"report: {report.page}")
        again = f"evervec {where(options)}upgrade {found.collection} --to {found.to_encoder}"
        stay = f"evervec {where(options)}status {found.collection}"
        next_command(stay if found.verdict.strategy == "stay" else again)
    if options.open:
        import webbrowser

        webbrowser.open(report.page if "://" in report.page else f"file://{report.page}")
    return 0


def upgrade(options: argparse.Namespace) -> int:
    """Change the encoder of a collection."""
    from flows.runs import run_upgrade
    from flows.show import ShownProgress, next_command
    from flows.upgrade import UpgradeRequest
    from tasks.decision import Wish

    if options.rechunk and (options.force_strategy or options.strategy) not in ("auto", "reencode"):
        raise usage("--rechunk makes new spans, which need new vectors: give it with --strategy reencode")
    project = project_of(options)
    request = UpgradeRequest(
        options.collection,
        _ask(options, project),
        Wish(options.strategy, options.force_strategy, options.cascade, options.yes),
        rechunk=options.rechunk,
        promote="never" if options.no_promote else "auto",
        wait=options.wait,
        dry_run=options.dry_run,
    )
    report = run_upgrade(project, request, ShownProgress("done"))
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    name = report.collection
    if report.reason != report.note:
        print(f"verdict: {report.verdict}: {report.reason}")
    if report.report:
        print(f"report: {report.report}")
    forced = ", forced" if report.forced else ""
    cascade = f", cascade {report.cascade}" if report.cascade else ""
    if report.note:
        print(f"{name}: {report.note}")
    if report.dry_run and report.promoted:
        print(f"{name} (dry run): nothing would be done")
        next_command(f"evervec {where(options)}status {name}")
        return 0
    if report.dry_run:
        print(f"{name} (dry run): would be carried over by {report.strategy}{cascade}{forced}")
        next_command(f"evervec {where(options)}upgrade {name} --to {options.to}")
        return 0
    print(
        f"{name}: release {report.release} ({report.strategy}{cascade}{forced}, {report.space_id}): "
        f"{report.rows:,} rows, {report.encoded:,} encoded, {report.mapped:,} mapped, {report.seconds:.1f} s"
    )
    if report.promoted:
        print(f"release {report.release} is live; back again: evervec {where(options)}rollback {name}")
        next_command(search_of(options, project, name))
    else:
        next_command(f"evervec {where(options)}promote {name} {report.release}")
    return 0


def backfill(options: argparse.Namespace) -> int:
    """Encode what is not native yet, within a budget."""
    from flows.backfill import BackfillRequest
    from flows.runs import run_backfill
    from flows.show import ShownProgress, next_command
    from tasks.backfill import Budget

    project = project_of(options)
    unit, amount = options.budget or ("rows", None)
    budget = Budget(
        rows=int(amount) if unit == "rows" and amount else None,
        seconds=amount if unit == "seconds" else None,
        gpu_seconds=amount if unit == "gpu_seconds" else None,
    )
    request = BackfillRequest(options.collection, budget, options.order, options.wait, options.dry_run)
    report = run_backfill(project, request, ShownProgress())
    if options.json:
        print(json.dumps(asdict(report)))
        return 0
    name = report.collection
    if report.dry_run:
        print(f"{name} (dry run): {report.reencoded:,} of {report.remaining:,} rows would be encoded")
    else:
        folded = f", {report.folded:,} taken from what searches had encoded" if report.folded else ""
        print(
            f"{name}: {report.reencoded:,} rows encoded into {report.space_id}{folded}, "
            f"{report.rejected:,} items rejected, {report.seconds:.1f} s"
        )
        print(
            f"coverage {report.coverage_before:.1%} before, {report.coverage_after:.1%} after; "
            f"{report.remaining:,} rows remain"
        )
    if report.remaining and not report.dry_run:
        next_command(f"evervec {where(options)}backfill {name} --budget 10m")
    elif report.dry_run:
        next_command(f"evervec {where(options)}backfill {name}")
    else:
        print("every row is as its own encoder made it")
        next_command(f"evervec {where(options)}status {name}")
    return 0


def _ask(options: argparse.Namespace, project: "Project") -> "ProbeAsk":
    from tasks.gate import QUERY_MS, Limits
    from tasks.probe import CASCADES, SAMPLE, ProbeAsk

    settings = project.collection(options.collection)
    unit, amount = options.max_cost or ("", None)
    if unit == "money" and settings.price_per_hour is None:
        raise usage(
            f"--max-cost {amount:g} is money, and collection {options.collection!r} has no "
            "`price_per_hour:`; set it, or give a time, as --max-cost 30m"
        )
    limits = Limits(
        seconds=amount if unit == "seconds" else None,
        money=amount if unit == "money" else None,
        query_ms=QUERY_MS if options.max_query_ms is None else options.max_query_ms,
        min_gap_closed=settings.min_gap_closed,
    )
    cascades = CASCADES if options.cascade is None else tuple(n for n in (options.cascade,) if n)
    return ProbeAsk(
        to=options.to,
        sample=options.sample or SAMPLE,
        queries=options.queries,
        label=options.label,
        samples=getattr(options, "samples", False),
        families=options.families,
        cascades=cascades,
        limits=limits,
    )
