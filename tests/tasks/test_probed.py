"""What a probe found: its JSON, and which option its verdict names."""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import ProbeUnreadable
from tasks.probed import Probed, Verdict, from_json, to_json
from tests.tasks.probes import cost, option, probe

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def values(kind):
    """Any value of a type that stands in a probe."""
    origin, args = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})
    if origin is tuple and args[-1] is Ellipsis:
        return st.lists(values(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, args))
    if origin is Literal:
        return st.sampled_from(args)
    if origin is Mapping:
        return st.dictionaries(st.text(), values(args[1]), max_size=2)
    return FINITE if kind is float else st.from_type(kind)


@given(values(Probed))
def test_a_probe_survives_its_json(probed):
    """Every value comes back, through the bytes of a file too."""
    document = to_json(probed)
    assert from_json(document) == probed
    assert from_json(json.loads(json.dumps(document, allow_nan=False))) == probed


def test_the_json_has_the_promised_keys():
    """Those that the command line promises, scores as plain numbers."""
    document = to_json(probe())
    assert (document["from"], document["to"]) == ("old_3_aa", "new_4_bb")
    assert {"pairs", "queries", "tier", "metric", "options", "verdict"} <= document.keys()
    assert all(isinstance(document[key], float) for key in ("status_quo", "naive_swap", "ceiling"))
    assert document["options"][0].keys() >= {
        "strategy",
        "basis",
        "cascade",
        "score",
        "interval",
        "gap_closed",
    }
    assert document["options"][0]["cost"].keys() >= {"encode_rows", "seconds", "bytes"}
    assert document["verdict"].keys() >= {"strategy", "reason"}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda d: d | {"colour": "red"}, "colour"),
        (lambda d: {k: v for k, v in d.items() if k != "from"}, "from"),
        (lambda d: d | {"tier": "guessed"}, "tier"),
        (lambda d: d | {"options": [d["options"][0] | {"cost": {"euros": 3}}]}, "options.0.cost"),
        (lambda d: [d], "(the whole)"),
    ],
    ids=["unknown", "missing", "other value", "nested", "no object"],
)
def test_json_of_another_version_is_refused(change, key):
    """The message names the key and the command that measures again."""
    with pytest.raises(ProbeUnreadable) as caught:
        from_json(change(to_json(probe())))
    assert caught.value.key.startswith(key)
    assert caught.value.exit_code == 2
    if key != "(the whole)":
        assert "`evervec probe docs --to new`" in str(caught.value)


def test_the_verdict_names_an_option():
    """Where two differ in side features alone, the one that passes, then the better one."""
    plain, side = option(basis="ridge", score=0.4), option(basis="ridge", side=True, score=0.41)
    failed = option(basis="ridge", side=True, score=0.5, passes=False, cost=cost(seconds=9))
    said = Verdict("map", 0, "ridge", "best")
    assert probe(options=(plain, side, failed), verdict=said).chosen is side
    assert probe(options=(plain, failed), verdict=said).chosen is plain
    assert probe(options=(plain,), verdict=Verdict("stay", 0, None, "none passes")).chosen is None
