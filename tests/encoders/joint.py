"""A joint model that knows colours and shapes: a small CLIP, trained here in seconds, in the real format.

Run to see how well it finds: python -m tests.encoders.joint FOLDER
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 60, 220),
    "yellow": (240, 220, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
}
SHAPES = ("circle", "square", "triangle")
SIDE = 32
DIM = 32
STEPS = 400
_WORDS = ("a", "an", "the", "photo", "of", "image", "thing", *COLOURS, *SHAPES)


def draw(colour: str, shape: str, seed: int, side: int = 48) -> Image.Image:
    """A shape in the middle of a grey ground with some noise; equal arguments draw equal images."""
    random = np.random.default_rng([seed, list(COLOURS).index(colour), SHAPES.index(shape)])
    grey = int(random.integers(90, 165))
    image = Image.new("RGB", (side, side), (grey, grey, grey))
    size = int(side * random.uniform(0.65, 0.85))
    left, top = ((side - size) // 2 + int(random.integers(-3, 4)) for _ in range(2))
    box = (left, top, left + size, top + size)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon(((left, box[3]), (box[2], box[3]), (left + size // 2, top)), fill=COLOURS[colour])
    noise = random.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def write_joint(folder: Path) -> Path:
    """Train and write the model: `red` finds what is red, `a blue square` blue squares. Under 20 s."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer(_WORDS)
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text["pad_token_id"] = tokenizer.pad_token_id
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(1)
        try:
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))
            _train(model, tokenizer, processor)
        finally:
            torch.set_num_threads(threads)
    model.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def clip_tokenizer(words: tuple[str, ...]):
    """CLIP's own tokenizer with a vocabulary of letters and these words."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for pair in merges:  # as the tokenizer does it: in the order of the merges
            pieces = _merged(pieces, pair)
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            merges.append(pair)
            vocabulary.append("".join(pair))
            pieces = _merged(pieces, pair)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=16)


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def _train(model, tokenizer, processor) -> None:
    """Contrastive over all captions: an image belongs to those that name nothing else."""
    import torch

    random = np.random.default_rng(0)
    kinds = list(itertools.product(COLOURS, SHAPES))
    named = [*((c, None) for c in COLOURS), *((None, s) for s in SHAPES), *kinds]
    fits = torch.tensor([[float(c in (None, k[0]) and s in (None, k[1])) for c, s in named] for k in kinds])
    pixels = [
        torch.from_numpy(np.stack(processor([draw(*kind, seed) for kind in kinds])["pixel_values"]))
        for seed in range(1_000, 1_024)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    model.train()
    for step in range(STEPS):
        before = ("", "a ", "the ", "a photo of a ", "an image of the ")[int(random.integers(5))]
        after = "thing" if before else None
        captions = [before + " ".join(w for w in (colour, shape or after) if w) for colour, shape in named]
        texts = tokenizer(captions, padding=True, return_tensors="pt")
        output = model(pixel_values=pixels[step % len(pixels)], **texts)
        logits = output.logits_per_image
        by_image = (torch.log_softmax(logits, 1) * fits).sum(1) / fits.sum(1)
        by_text = (torch.log_softmax(logits, 0) * fits).sum(0) / fits.sum(0)
        loss = -(by_image.mean() + by_text.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


if __name__ == "__main__":
    from encoders import catalog, files
    from encoders.spec import EncoderSpec

    spec = EncoderSpec(model=str(write_joint(Path(sys.argv[1]))), modality="image")
    facts = catalog.describe(spec, files.HashCache(None))
    encoder, preparer = catalog.open_media_encoder(spec, facts), catalog.open_preparer(spec, facts)
    kinds = [(*kind, seed) for kind in itertools.product(COLOURS, SHAPES) for seed in range(3)]
    vectors = encoder.encode([preparer.prepare(draw(*k)) for k in kinds])
    found = {}
    for query in (*COLOURS, *SHAPES, *(f"a {c} {s}" for c, s in itertools.product(COLOURS, SHAPES))):
        asked = set(query.split()) - {"a"}
        right = [asked <= set(k[:2]) for k in kinds]
        best = np.argsort(-(vectors @ encoder.encode_query(query)))[: sum(right)]
        found[query] = float(np.mean([right[i] for i in best]))
    print(json.dumps(found, indent=1))
