"""Verbs that start something: a project, the demo, runs on a schedule."""

import argparse
import json
from pathlib import Path

from flows.verbs.invocation import project_of, usage, where


def init(options: argparse.Namespace) -> int:
    """Write a commented evervec.yaml."""
    from flows.settings import FILE, TEMPLATE, SettingsError

    directory: Path = options.directory / (options.folder or "")
    path = directory / FILE
    if path.exists():
        raise SettingsError(f"{path} exists already and is left as it is; edit it, or init another folder")
    if options.dry_run:
        print(
            json.dumps({"path": str(path)}) if options.json else TEMPLATE,
            end="\n" if options.json else "",
        )
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE)
    ignore = directory / ".gitignore"
    kept = ignore.read_text().splitlines() if ignore.exists() else []
    ignore.write_text("\n".join([*kept, *(x for x in ("lake/", ".evervec/") if x not in kept)]) + "\n")
    if options.json:
        print(json.dumps({"path": str(path)}))
    else:
        folder = "" if directory == Path() else f"-C {directory} "
        print(f"wrote {path}: put text files into {directory / 'docs'}, or edit it to point at yours")
        print(f"next: evervec {folder}ingest docs")
    return 0


def demo(options: argparse.Namespace) -> int:
    """Tell the whole story."""
    from flows.demo import demo as told

    steps = told(
        options.directory / options.folder, full=options.full, dry_run=options.dry_run, quiet=options.json
    )
    if options.json:
        print(json.dumps({"steps": steps}, default=str))
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Register the deployments with the Prefect server."""
    from flows.deployed import deploy as register
    from flows.settings import prefect_api_url
    from flows.show import next_command

    project = project_of(options)
    url = prefect_api_url()
    if url is None and not options.dry_run:
        raise usage(
            "no Prefect server is configured. Start one:  prefect server start\n"
            "then:  export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    names = register(project.root, dry_run=options.dry_run, yes=options.yes)
    if options.json:
        print(json.dumps({"deployments": names}))
        return 0
    print(f"{'would register' if options.dry_run else 'registered'} {', '.join(names)} for {project.root}")
    next_command(
        f"evervec {where(options)}deploy" if options.dry_run else "prefect worker start --pool evervec"
    )
    return 0
