"""An encoder of the user's own: a class beside evervec.yaml."""

import sys
import textwrap

import numpy as np
import pytest
import soundfile
from PIL import Image

from encoders import custom
from encoders.catalog import describe
from encoders.errors import EncoderUnusable
from encoders.files import HashCache
from encoders.spec import EncoderSpec
from flows.settings import SettingsError
from tasks import calls, reader
from tasks.status import rejects

LETTERS = """
    import numpy as np

    class Letters:
        fingerprint = "letters-1"
        dim = 26

        def encode(self, batch):
            if any("poison" in text for text in batch):
                raise RuntimeError("poisoned")
            return [[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in batch]
"""


@pytest.fixture
def own(make_project, tmp_path, request):
    """Make a project whose encoder is the class in `code`; each in a module of its own name."""
    module = f"own_{abs(hash(request.node.nodeid))}"

    def make(code, *, name="Letters", modality="text", source="{kind: files, path: docs}"):
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        return make_project(f"""
            encoders: {{own: {{python: "{module}:{name}", modality: {modality}}}}}
            collections:
              docs: {{source: {source}, encoder: own, max_deleted: 1.0}}
        """)

    return make


def test_texts_are_encoded_and_searched_by_the_class(own, run_ingest):
    """The only thing that is asked of it: fingerprint, dim, encode."""
    project = own(LETTERS)
    (project.root / "docs/zzz.txt").write_text("zzz zzz zz")
    (project.root / "docs/abc.txt").write_text("abc abc ab")
    (project.root / "docs/bad.txt").write_text("poison")
    report = run_ingest(project)
    assert (report.added, report.rejected) == (2, 1)
    assert report.space_id.startswith("letters_26_")
    assert "poisoned" in rejects(project, "docs")[0]["reason"]
    with reader.open(project) as lake:
        assert lake.search("docs", "zz top").hits[0].item_id == "zzz.txt"
    assert run_ingest(project).encoded == 0


def test_images_come_as_arrays_of_bounded_size(own, run_ingest):
    """RGB bytes, the shorter side no longer than `size`; `encode_query` makes the class joint."""
    project = own(
        """
        import numpy as np

        class Colour:
            fingerprint = "mean-colour"
            dim = 3
            size = 20

            def encode(self, batch):
                assert all(a.dtype == np.uint8 and a.ndim == 3 and min(a.shape[:2]) <= 20 for a in batch)
                return np.stack([a.reshape(-1, 3).mean(axis=0) / 255 + 1e-3 for a in batch])

            def encode_query(self, text):
                return np.array([text.count(w) + 1e-3 for w in ("red", "green", "blue")])
        """,
        name="Colour",
        modality="image",
    )
    for name, colour in {"sea": (0, 0, 255), "rose": (255, 0, 0)}.items():
        Image.new("RGB", (300, 200), colour).save(project.root / f"docs/{name}.png")
    assert run_ingest(project).added == 2
    with reader.open(project) as lake:
        assert lake.search("docs", "a red flower").hits[0].item_id == "rose.png"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_like_this", "cannot be imported.*ModuleNotFoundError.*nothing_like_this"),
        ("class Other: pass", "has no class 'Letters'"),
        ("class Letters: dim = 3", r"fingerprint is None"),
        ("class Letters:\n    fingerprint = 'x'\n    dim = '3'", r"dim is '3'"),
        ("class Letters:\n    fingerprint = 'x'\n    dim = 3", r"has no method encode"),
    ],
)
def test_a_class_that_cannot_be_used_is_named(code, told, own, run_ingest):
    """Before anything is pulled."""
    project = own(code)
    (project.root / "docs/a.txt").write_text("text")
    with pytest.raises(EncoderUnusable, match=f"Letters.*{told}|{told}") as raised:
        run_ingest(project)
    assert "Letters" in str(raised.value)


@pytest.mark.parametrize("given", ["np.zeros((1, 3))", "[['no', 'number']]", "None", "np.ones(26)"])
def test_wrong_shapes_end_the_run_and_name_the_class(given, own, run_ingest):
    """They are no fault of an item: nothing becomes a reject."""
    project = own(LETTERS.replace("return [[", f"return {given}\n            [["))
    (project.root / "docs/a.txt").write_text("text")
    (project.root / "docs/b.txt").write_text("another")
    with pytest.raises(EncoderUnusable, match=r"Letters\.encode gave"):
        run_ingest(project)
    assert not (project.lake / "docs/_commits").exists()


def test_the_space_is_of_the_fingerprint_not_of_the_name():
    """A renamed class writes into the same space; a new fingerprint makes a new one."""
    import types

    module = sys.modules["made_up_for_this"] = types.ModuleType("made_up_for_this")

    def described(name, fingerprint):
        attributes = {"fingerprint": fingerprint, "dim": 4, "encode": lambda self, b: np.ones((len(b), 4))}
        setattr(module, name, type(name, (), attributes))
        return describe(EncoderSpec(python=f"made_up_for_this:{name}"), HashCache(None))

    assert described("A", "one").fingerprint == described("B", "one").fingerprint
    assert described("A", "two").fingerprint != described("B", "one").fingerprint


def test_python_and_model_exclude_each_other(make_project):
    """The mistake is named where it stands."""
    with pytest.raises(SettingsError, match="give `model:` or `python:`, not both"):
        make_project("""
            encoders: {own: {python: "a:B", model: "fake:8"}}
            collections: {docs: {source: {kind: files, path: docs}, encoder: own}}
        """)


@pytest.mark.parametrize("name", ["encoders", "tasks", "storage", "flows"])
def test_modules_named_like_our_packages_are_refused_with_a_reason(name):
    """They could never be imported."""
    with pytest.raises(EncoderUnusable, match="is a package of Evervec itself"):
        describe(EncoderSpec(python=f"/some/project/{name}:Mine"), HashCache(None))


def test_what_is_said_in_init_counts(own, run_ingest):
    """Rate and dim may be known only then; an error there, or in the first call, names the class."""
    code = """
        class Loud:
            def __init__(self):
                self.fingerprint, self.dim, self.rate = "loud", 3, 4_000

            def encode(self, batch):
                assert all(len(samples) == 4_000 for samples in batch), [len(s) for s in batch]
                return [[1.0, float(abs(s).max()), float(abs(s).mean())] for s in batch]
    """
    project = own(code, name="Loud", modality="audio")
    soundfile.write(project.root / "docs/a.wav", np.full(8_000, 0.25), 8_000)
    with pytest.raises(EncoderUnusable, match=r"Loud.*fails on plain inputs.*AssertionError"):
        run_ingest(project)  # the fixed inputs are two seconds long, at the rate of the class
    (project.root / "docs/a.wav").unlink()
    fixed = code.replace("== 4_000 for", "in (4_000, 8_000) for")
    again = own(fixed, name="Loud", modality="audio")
    soundfile.write(again.root / "docs/a.wav", np.full(8_000, 0.25), 8_000)
    for module in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[module]
    custom._made.cache_clear()
    calls.opened_media.cache_clear()
    assert run_ingest(again).added == 1
