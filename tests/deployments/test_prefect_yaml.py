"""The deployments as declared: they load, their parameters fit, and what is scheduled is what is meant."""

import importlib

import yaml

from flows.deployed import DEPLOYMENTS, deploy

DECLARED = yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]


def test_every_entrypoint_is_an_importable_flow_whose_parameters_fit():
    """A worker can load it by module path, and Prefect accepts what it will be called with."""
    for entry in DECLARED:
        module, _, name = entry["entrypoint"].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert found.name == entry["name"]
        found.validate_parameters(entry["parameters"])
        assert set(entry["parameters"]) == set(found.parameters.properties)


def test_what_is_scheduled_is_what_is_meant():
    """Name, schedule, pool and parameters; change this with the file."""
    table = [
        (e["name"], [s["cron"] for s in e["schedules"]], e["work_pool"]["name"], e["parameters"])
        for e in DECLARED
    ]
    parameters = {"project": ".", "collection": None, "wait": 3600}
    assert table == [
        ("nightly-ingest", ["0 2 * * *"], "evervec", parameters),
        ("weekly-maintenance", ["0 5 * * 0"], "evervec", parameters),
    ]


def test_every_parameter_is_described_in_the_form():
    """A person who starts a run by hand sees what each field means."""
    for entry in DECLARED:
        module, _, name = entry["entrypoint"].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        for field, facts in found.parameters.properties.items():
            assert facts.get("description"), field


def test_a_dry_run_of_deploy_names_the_deployments_and_asks_no_server(tmp_path):
    """`deploy --dry-run` works offline."""
    assert deploy(tmp_path, dry_run=True) == ["nightly-ingest", "weekly-maintenance"]
