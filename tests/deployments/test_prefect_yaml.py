"""The deployments as declared: they load, their parameters fit, and what is scheduled is what is meant."""

import importlib

import yaml

from flows.deployed import DEPLOYMENTS, deploy

BY_HAND = {"upgrade": {"collection": "docs", "to": "better"}, "backfill": {"collection": "docs"}}
"""Deployments that a person or an API starts, and what they must give."""

DECLARED = yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]


def test_every_entrypoint_is_an_importable_flow_whose_parameters_fit():
    """A worker can load it by module path, and Prefect accepts what it will be called with."""
    for entry in DECLARED:
        module, _, name = entry["entrypoint"].rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert found.name == entry["name"]
        given = {**BY_HAND.get(entry["name"], {}), **entry["parameters"]}
        found.validate_parameters(given)
        every = set(found.parameters.properties)
        assert set(given) <= every if entry["name"] in BY_HAND else set(given) == every


def test_what_is_scheduled_is_what_is_meant():
    """Name, schedule, pool and parameters; change this with the file."""
    table = [
        (e["name"], [s["cron"] for s in e.get("schedules", [])], e["work_pool"]["name"], e["parameters"])
        for e in DECLARED
    ]
    parameters = {"project": ".", "collection": None, "wait": 3600}
    assert table == [
        ("nightly-ingest", ["0 2 * * *"], "evervec", parameters),
        ("weekly-maintenance", ["0 5 * * 0"], "evervec", parameters),
        ("upgrade", [], "evervec", {"project": ".", "promote": "if_verdict", "wait": 3600}),
        ("backfill", [], "evervec", {"project": ".", "minutes": 60, "order": "asked", "wait": 3600}),
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
    assert deploy(tmp_path, dry_run=True) == [e["name"] for e in DECLARED]
