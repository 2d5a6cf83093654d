"""The README says what is true."""

import json
import re
import shlex
from pathlib import Path

import pytest

from flows import cli
from flows.settings import load_project
from tests.benchmarks.table import HERE, README, SECTIONS, section

TEXT = README.read_text()


def test_the_numbers_are_those_that_were_measured():
    """Accept new ones with: python -m tests.benchmarks.table."""
    results = json.loads((HERE / "results.json").read_text())
    for name, made in SECTIONS.items():
        assert section(TEXT, name) == made(results)


def test_every_command_shown_is_one_that_the_parser_takes():
    """No verb or option that is not there."""
    parser = cli._parser()
    shown = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("evervec ")]
    assert len(shown) >= 5
    for line in shown:
        assert parser.parse_args(shlex.split(line)[1:]).run


def test_the_configuration_shown_is_valid(tmp_path: Path):
    """Copying it works."""
    yaml = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert yaml
    (tmp_path / "evervec.yaml").write_text(yaml.group(1))
    assert load_project(tmp_path).collections.keys() >= {"docs", "products", "photos", "calls", "legacy"}


@pytest.mark.parametrize("folder", ["flows", "tasks", "encoders", "storage", "deployments", "tests"])
def test_every_folder_of_the_tree_is_there_and_explained(folder):
    """The tree in the README is the tree."""
    assert (README.parent / folder).is_dir()
    assert f"\n{folder}/" in TEXT
