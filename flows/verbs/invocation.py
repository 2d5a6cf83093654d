"""What every verb makes of how it was called: the project, a mistake, the folder for the next command."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.project import Project


def where(options: argparse.Namespace) -> str:
    """The `-C DIR` that the next command needs too."""
    return "" if options.directory == Path() else f"-C {options.directory} "


def project_of(options: argparse.Namespace) -> "Project":
    """The project that the verb is run in."""
    from flows.settings import load_project

    return load_project(options.directory)


def usage(message: str) -> Exception:
    """What to raise if the verb was called the wrong way."""
    from flows.settings import SettingsError

    return SettingsError(message)


def search_of(options: argparse.Namespace, project: "Project", collection: str) -> str:
    """The command that searches a collection with something of its own kind."""
    asked = {"text": '"a question"', "image": "--image FILE", "audio": "--audio FILE"}
    return f"evervec {where(options)}search {collection} {asked[project.modality(collection)]}"
