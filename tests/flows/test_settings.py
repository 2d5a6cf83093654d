"""`evervec.yaml`: every mistake is named with its key and its remedy, before any work."""

import re
from pathlib import Path

import pytest
import yaml

from flows.settings import FILE, TEMPLATE, SettingsError, load_project, prefect_api_url
from tasks.errors import NothingThere
from tasks.project import RESERVED, TableSource

SECRET = "hunter2-s3cr3t"


def document():
    """A configuration that uses every section."""
    return {
        "lake": "./lake",
        "encoders": {"enc": {"model": "fake:16", "max_tokens": 64}},
        "collections": {
            "docs": {
                "source": {"kind": "files", "path": "docs", "include": ["*.md"]},
                "encoder": "enc",
                "chunk": {"max_tokens": 32, "overlap": 4},
                "resources": {"actors": 1},
            },
            "products": {
                "source": {
                    "kind": "table",
                    "path": "p.csv",
                    "id": "sku",
                    "text": "about",
                    "attributes": ["price"],
                },
                "encoder": "enc",
                "max_deleted": 0.5,
            },
            "python": {"source": {"kind": "docstrings", "packages": ["json"]}, "encoder": "enc"},
        },
    }


def load(folder, settings):
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (folder / FILE).write_text(text)
    return load_project(folder)


def refusal(folder, settings):
    """The message that a configuration is refused with."""
    with pytest.raises(SettingsError) as caught:
        load(folder, settings)
    assert caught.value.exit_code == 2
    return str(caught.value)


def changed(path, value):
    """The configuration with one key set; `path` as in a message, with dots."""
    settings = document()
    *folders, key = path.split(".")
    place = settings
    for folder in folders:
        place = place[folder]
    place[key] = value
    return settings


def test_a_whole_configuration_is_loaded(tmp_path):
    """What is written is what the project says, defaults where nothing is."""
    project = load(tmp_path, document())
    assert set(project.collections) == {"docs", "products", "python"}
    docs, products = project.collection("docs"), project.collection("products")
    assert (docs.chunk.max_tokens, docs.chunk.overlap, docs.resources.actors) == (32, 4, 1)
    assert (docs.max_deleted, products.max_deleted) == (0.2, 0.5)
    assert docs.source.include == ("*.md",)
    assert isinstance(products.source, TableSource)
    assert products.source.attributes == ("price",)
    assert project.encoders["enc"].model == "fake:16"
    assert project.ray_address is None


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("encoder", "encoders"),
        ("colections", "collections"),
        ("encoders.enc.modle", "model"),
        ("encoders.enc.maxtokens", "max_tokens"),
        ("collections.docs.sorce", "source"),
        ("collections.docs.max_delete", "max_deleted"),
        ("collections.docs.source.pathh", "path"),
        ("collections.docs.source.includes", "include"),
        ("collections.products.source.attribute", "attributes"),
        ("collections.products.source.txt", "text"),
        ("collections.python.source.package", "packages"),
        ("collections.docs.chunk.max_token", "max_tokens"),
        ("collections.docs.resources.actor", "actors"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest(tmp_path, key, nearest):
    """A slip of the pen is refused at every level, with the key that was probably meant."""
    message = refusal(tmp_path, changed(key, 1))
    assert f"  {key}: unknown key; did you mean {nearest!r}?" in message
    assert str(tmp_path / FILE) in message


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("zzz", ["collections", "encoders", "lake"]),
        ("collections.docs.chunk.zzz", ["max_tokens", "overlap"]),
        ("collections.python.source.zzz", ["kind", "packages"]),
    ],
)
def test_an_unknown_key_like_no_other_lists_those_there_are(tmp_path, key, known):
    """Where nothing is near, all keys of that place are listed, and none that a user cannot set."""
    assert f"  {key}: unknown key; known keys: {', '.join(known)}" in refusal(tmp_path, changed(key, 1))


@pytest.mark.parametrize("key", ["root", "ray_address"])
def test_what_the_program_fills_in_cannot_be_configured(tmp_path, key):
    """The project's folder and the cluster come from where and how the command runs."""
    assert key in refusal(tmp_path, changed(key, "/elsewhere"))


def test_every_mistake_is_told_at_once(tmp_path):
    """Two mistakes are counted and listed, so that nobody mends them one run at a time."""
    settings = changed("collections.docs.chunk.overlap", -1)
    settings["encoders"]["enc"]["layerz"] = 2
    message = refusal(tmp_path, settings)
    assert "has 2 mistakes:" in message
    assert "collections.docs.chunk.overlap" in message
    assert "did you mean 'layers'?" in message


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("collections.docs.encoder", "other", "'other', which is not under `encoders:`; there are: enc"),
        ("collections.docs.modality", "smell", "modality"),
        ("collections.docs.max_deleted", 1.5, "less than or equal to 1 (given: 1.5)"),
        ("collections.docs.resources.actors", 0, "greater than or equal to 1"),
        ("collections.docs.chunk", {"max_tokens": 10, "overlap": 6}, "give at most 5"),
        ("collections.docs.source.kind", "fils", "files"),
        ("collections.products.source", {"kind": "table", "path": "p.csv"}, "source.id: is required"),
        ("collections.products.source", {"path": "p.csv"}, "kind"),
        ("encoders", {}, "encoders"),
        ("encoders.enc.model", "", "encoders.enc.model"),
        ("encoders.enc.layers", "three", "(given: 'three')"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(tmp_path, key, value, said):
    """A value that cannot be used names its key and what would do."""
    assert said in refusal(tmp_path, changed(key, value))


@pytest.mark.parametrize(
    "name", ["Docs", "1docs", "my-docs", "_docs", "dö", "a b", "../up", "", "x" * 64, "select;"]
)
def test_bad_names_of_collections_are_refused(tmp_path, name):
    """Names are folders and tables: small letters, digits and _, beginning with a letter."""
    settings = document()
    settings["collections"][name] = settings["collections"].pop("docs")
    assert "collections" in refusal(tmp_path, settings)


def test_the_rule_for_names_is_told(tmp_path):
    """A name that is refused comes with the rule."""
    settings = document()
    settings["collections"]["My-Docs"] = settings["collections"].pop("docs")
    message = refusal(tmp_path, settings)
    assert "My-Docs" in message
    assert "small letters, digits and _, beginning with a letter" in message


@pytest.mark.parametrize("suffix", ["_items", "_vectors", "_rejects", "_versions"])
def test_a_collection_named_like_a_view_of_another_is_refused(tmp_path, suffix):
    """Two views of one name cannot be."""
    settings = document()
    settings["collections"]["docs" + suffix] = settings["collections"]["python"]
    message = refusal(tmp_path, settings)
    assert f"'docs{suffix}' is named like a view of 'docs'" in message
    del settings["collections"]["docs"]
    assert "docs" + suffix in load(tmp_path, settings).collections


@pytest.mark.parametrize("name", ["evervec", "search", "main"])
def test_a_collection_may_be_named_like_a_schema_or_function(tmp_path, name):
    """Tables, schemas and functions of SQL do not share their names."""
    settings = document()
    settings["collections"] = {name: settings["collections"]["docs"]}
    assert list(load(tmp_path, settings).collections) == [name]


@pytest.mark.parametrize("name", [*sorted(RESERVED), "Text", "VECTOR"])
def test_an_attribute_named_like_a_column_is_refused(tmp_path, name):
    """A column of the views cannot be an attribute too, whatever its case: SQL knows no case."""
    message = refusal(tmp_path, changed("collections.products.source.attributes", ["price", name]))
    assert f"{name!r} already; rename yours" in message


@pytest.mark.parametrize("names", [["price", "price"], ["price", "Price"]])
def test_attributes_named_alike_are_refused(tmp_path, names):
    """Two attributes of one name, as SQL sees names, are a mistake of the configuration."""
    assert "attributes" in refusal(tmp_path, changed("collections.products.source.attributes", names)).lower()


@pytest.mark.parametrize(
    "name", ["a.b", "a`b", "_distance", "_rowid", "_rowoffset", "_row_created_at_version", ""]
)
def test_an_attribute_that_the_index_cannot_hold_is_refused(tmp_path, name):
    """Names that LanceDB takes for itself or for a path are told before any work, not after it."""
    message = refusal(tmp_path, changed("collections.products.source.attributes", [name]))
    assert repr(name) in message


def test_references_are_replaced_from_the_environment(tmp_path, monkeypatch):
    """${NAME} stands for the variable, in any text, more than once, and in lists."""
    monkeypatch.setenv("WHERE", "data")
    monkeypatch.setenv("PATTERN", "*.rst")
    settings = document()
    settings["lake"] = "${WHERE}/${WHERE}"
    settings["collections"]["docs"]["source"]["include"] = ["${PATTERN}", "a$b", "${}"]
    project = load(tmp_path, settings)
    assert project.lake == tmp_path / "data" / "data"
    assert project.collection("docs").source.include == ("*.rst", "a$b", "${}")


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    """A missing variable is an error before anything else, with the command that sets it."""
    monkeypatch.delenv("NOT_SET", raising=False)
    message = refusal(tmp_path, changed("encoders.enc.revision", "${NOT_SET}"))
    assert "${NOT_SET}, which is not set" in message
    assert "export NOT_SET=" in message


def test_a_replaced_value_is_not_replaced_again(tmp_path, monkeypatch):
    """What a variable holds is taken as it is, even if it looks like a reference."""
    monkeypatch.setenv("OUTER", "${INNER}")
    monkeypatch.setenv("INNER", "wrong")
    project = load(tmp_path, changed("encoders.enc.revision", "${OUTER}"))
    assert project.encoders["enc"].revision == "${INNER}"


@pytest.mark.parametrize(
    "key",
    [
        "encoders.enc.layers",
        "collections.docs.encoder",
        "collections.docs.source.kind",
        "collections.docs.max_deleted",
        "collections.docs.source.include",
        "collections.docs.modality",
    ],
)
@pytest.mark.parametrize("text", ["${TOKEN}", "pre-${TOKEN}-post"])
def test_secrets_are_not_in_messages(tmp_path, monkeypatch, key, text):
    """Whatever key a secret was put into by mistake, the message shows *** in its place."""
    monkeypatch.setenv("TOKEN", SECRET)
    message = refusal(tmp_path, changed(key, text))
    assert SECRET not in message
    assert key.rpartition(".")[2] in message or "encoder" in message


def test_a_secret_that_holds_another_is_not_shown_in_part(tmp_path, monkeypatch):
    """Where one variable begins like a longer one, nothing of the longer one is left over."""
    monkeypatch.setenv("USER_NAME", "hunter2")
    monkeypatch.setenv("TOKEN", SECRET)
    settings = changed("collections.docs.encoder", "${TOKEN}")
    settings["encoders"]["enc"]["revision"] = "${USER_NAME}"
    message = refusal(tmp_path, settings)
    assert "uses encoder '***'" in message
    assert "s3cr3t" not in message


def test_secrets_with_quotes_are_not_in_messages(tmp_path, monkeypatch):
    """A secret that Python would write with escapes is hidden too."""
    monkeypatch.setenv("TOKEN", "it's\\a\nXYZZY\N{GRINNING FACE}")
    message = refusal(tmp_path, changed("encoders.enc.layers", "${TOKEN}"))
    assert "XYZZY" not in message


def test_evervec_lake_overrides_the_lake(tmp_path, monkeypatch):
    """The environment decides where the lake lies, relative to the project like the key itself."""
    monkeypatch.setenv("EVERVEC_LAKE", "elsewhere")
    assert load(tmp_path, document()).lake == tmp_path / "elsewhere"
    monkeypatch.setenv("EVERVEC_LAKE", str(tmp_path / "abs" / ".." / "lake2"))
    assert load(tmp_path, document()).lake == tmp_path / "lake2"
    monkeypatch.setenv("EVERVEC_LAKE", "")
    assert load(tmp_path, document()).lake == tmp_path / "lake"


def test_ray_and_prefect_are_found_in_the_environment(tmp_path, monkeypatch):
    """Addresses of a cluster and of a server are read here; empty is none."""
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert load(tmp_path, document()).ray_address == "ray://head:10001"
    assert prefect_api_url() == "http://127.0.0.1:4200/api"
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert load(tmp_path, document()).ray_address is None
    assert prefect_api_url() is None


def test_paths_are_those_seen_from_the_project(tmp_path, monkeypatch):
    """Wherever the command is started, relative paths begin at the folder of the configuration."""
    project_folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    (project_folder / "models").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = document()
    settings["lake"] = "../lake"
    settings["encoders"]["local"] = {"model": "./models"}
    settings["encoders"]["bare"] = {"model": "models"}
    settings["encoders"]["hub"] = {"model": "org/name"}
    settings["encoders"]["home"] = {"model": "~/model"}
    settings["collections"]["products"]["source"]["path"] = "~/p.csv"
    (project_folder / FILE).write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(elsewhere)
    for given in (project_folder, Path("../project"), elsewhere / ".." / "project"):
        project = load_project(given)
        assert project.root == project_folder
        assert project.lake == tmp_path / "lake"
        assert project.collection("docs").source.path == project_folder / "docs"
        assert project.collection("products").source.path == tmp_path / "home" / "p.csv"
        models = {name: spec.model for name, spec in project.encoders.items()}
        assert models == {
            "enc": "fake:16",
            "local": str(project_folder / "models"),
            "bare": str(project_folder / "models"),
            "hub": "org/name",
            "home": str(tmp_path / "home" / "model"),
        }


def test_the_lake_has_a_default(tmp_path):
    """Without a key the lake is a folder beside the configuration."""
    settings = document()
    del settings["lake"]
    assert load(tmp_path, settings).lake == tmp_path / "lake"


def test_a_missing_file_names_the_next_command(tmp_path):
    """Where there is no configuration, the message says which folder, and how to start one."""
    with pytest.raises(SettingsError) as caught:
        load_project(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "evervec init" in str(caught.value)
    assert "-C DIR" in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words"])
def test_an_empty_file_names_the_next_command(tmp_path, text):
    """A file that holds no mapping says where to see one."""
    assert "evervec init" in refusal(tmp_path, text)


@pytest.mark.parametrize("text", ["lake: [", "a: b: c", "\tlake: x", "lake: !!python/object:os.system {}"])
def test_broken_yaml_is_named_with_its_line(tmp_path, text):
    """What is not YAML, or is more than plain YAML, is refused with the file and the line."""
    message = refusal(tmp_path, text)
    assert f"{tmp_path / FILE} is not readable YAML" in message
    assert "line 1" in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """Bytes that are not UTF-8 end in one sentence."""
    (tmp_path / FILE).write_bytes(b"lake: \xff\xfe")
    with pytest.raises(SettingsError, match="is not readable YAML"):
        load_project(tmp_path)


@pytest.mark.parametrize("key", ["collections", "encoders", "collections.docs", "encoders.enc"])
@pytest.mark.parametrize("value", [None, 1, "text", ["list"]])
def test_a_section_of_the_wrong_shape_is_named(tmp_path, key, value):
    """A section that is no mapping is refused by its name, not with a traceback."""
    assert key.partition(".")[0] in refusal(tmp_path, changed(key, value))


@pytest.mark.parametrize("key", [1, 2.5, True, None])
def test_keys_that_yaml_does_not_read_as_text_are_refused(tmp_path, key):
    """`1:` or `yes:` as the name of a key or a collection is one clear error."""
    settings = document()
    settings["collections"][key] = settings["collections"]["docs"]
    assert "collections" in refusal(tmp_path, settings)
    settings = document()
    settings[key] = 1
    assert str(key) in refusal(tmp_path, settings)


def test_an_unknown_collection_lists_those_there_are(tmp_path):
    """Asking for a collection that is not configured names the ones that are."""
    with pytest.raises(NothingThere, match=r"'other'.*docs, products, python") as caught:
        load(tmp_path, document()).collection("other")
    assert caught.value.exit_code == 2


def test_the_template_is_a_good_configuration(tmp_path):
    """What `evervec init` writes loads as it is, and so does what it has in comments."""
    project = load(tmp_path, TEMPLATE)
    assert project.lake == tmp_path / "lake"
    assert project.collection("docs").source.path == tmp_path / "docs"
    commented = re.sub(r"(?m)^  # (products|photos|shapes):", r"  \1:", TEMPLATE).replace("  #   ", "    ")
    loaded = load(tmp_path, commented)
    assert loaded.modality("photos") == "image"
    products = loaded.collection("products")
    assert isinstance(products.source, TableSource)
    assert products.max_deleted == 0.2


def test_a_project_cannot_be_changed(tmp_path):
    """Settings are read once; nothing alters them afterwards."""
    project = load(tmp_path, document())
    with pytest.raises(ValueError, match="frozen"):
        project.lake = tmp_path


@pytest.mark.parametrize(
    ("collection", "told"),
    [
        (
            "{source: {kind: table, path: t.csv, id: id, text: t}, encoder: eye}",
            "needs `media:`, not `text:`",
        ),
        (
            "{source: {kind: table, path: t.csv, id: id, media: t}, encoder: words}",
            "needs `text:`, not `media:`",
        ),
        ("{source: {kind: table, path: t.csv, id: id}, encoder: eye}", "needs `text:`"),
        ("{source: {kind: docstrings}, encoder: eye}", "docstrings are texts"),
        (
            "{source: {kind: files, path: p}, encoder: eye, chunk: {seconds: 3}}",
            "chunk.seconds means nothing for image",
        ),
        (
            "{source: {kind: files, path: p}, encoder: ear, chunk: {max_tokens: 64}}",
            "chunk.max_tokens means nothing",
        ),
        (
            "{source: {kind: files, path: p}, encoder: ear, chunk: {seconds: 3, overlap_seconds: 2}}",
            "at most 1.5",
        ),
        ("{source: {kind: files, path: p}, encoder: eye, modality: audio}", "is audio, its encoder"),
    ],
)
def test_what_does_not_fit_the_modality_is_a_mistake(collection, told, tmp_path):
    """Before anything is pulled."""
    (tmp_path / "evervec.yaml").write_text(
        'encoders: {eye: {model: "fake:8", modality: image}, ear: {model: "builtin:audio-logmel"}, '
        f'words: {{model: "fake:8"}}}}\ncollections: {{things: {collection}}}\n'
    )
    with pytest.raises(SettingsError, match=told):
        load_project(tmp_path)


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("{model: builtin:image-scater}", "there are builtin:image-scatter and builtin:audio-logmel"),
        ("{model: builtin:image-scatter, modality: audio}", "encodes image, not audio"),
    ],
)
def test_builtin_encoders_know_what_they_are_for(encoder, told, tmp_path):
    """Their modality need not be said, and cannot be another."""
    (tmp_path / "evervec.yaml").write_text(f"encoders: {{own: {encoder}}}\ncollections: {{}}\n")
    with pytest.raises(SettingsError, match=told):
        load_project(tmp_path)
