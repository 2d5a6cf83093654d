"""Encoders of images and audio, loaded by transformers or sentence-transformers, batched by our own rule."""

import copy
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from encoders.backbone import SAME_SPACE, cosines, keep_layers, quiet_transformers, unit
from encoders.batching import pack
from encoders.errors import EncoderUnusable
from encoders.families import Family, family_of
from encoders.files import modules_of, read_json
from encoders.processors import MediaPreparer
from encoders.spec import EncoderFacts, EncoderSpec

VALUES_PER_PASS = {"cpu": 1_250_000, "cuda": 40_000_000}
"""Numbers in the inputs of one forward pass: on a CPU 8 images of 224 × 224 or as many seconds of audio
times ten, on a GPU what fills it."""

_UNTRAINED = ("pooler.", "masked_spec_embed")
"""Weights that checkpoints may lack: of heads that no rule uses, and of training alone."""

_FAILURES = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, SafetensorError)
_GOLDEN_TEXT = "a photo of a red circle"


class LoadedMediaEncoder:
    """A model of images or audio; `families.py` says which of its outputs is the vector.

    Vectors are float32 of unit norm (zero or NaN stay so), after `truncate_dim` too, and do not depend
    on what else is encoded: only inputs of equal shape share a pass, or waveforms of any length where
    the model masks padding exactly. Runs in fp32 on a CPU, and on a GPU in bf16 where golden inputs come
    out at a cosine of at least 0.9999 to fp32. Raises `EncoderUnusable` if the files contradict each other.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        facts: EncoderFacts,
        *,
        device: Literal["cpu", "cuda"] | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if facts.folder is None:
            raise EncoderUnusable(f"{spec.model} has no files to load")
        self.facts = facts
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        base = modules_of(facts.folder)[0][1]
        family = family_of(read_json(base / "config.json"))
        if family is None:
            raise EncoderUnusable(f"{spec.model} is of no family that encodes {spec.modality}")
        with_modules = (facts.folder / "modules.json").is_file()
        quiet_transformers()
        try:
            library = _SentenceTransformer if with_modules else _Transformer
            self._model: _SentenceTransformer | _Transformer = library(spec, facts, family, base)
            self._model.module.to(self.device)
            golden = _golden(MediaPreparer(spec, facts))
            exact = self._check(golden)
        except _FAILURES as error:
            raise EncoderUnusable(f"{spec.model} cannot be loaded: {error}") from error
        self.precision = "fp32"
        if self.device == "cuda" and torch.cuda.is_bf16_supported():
            self._try_bf16(golden, exact)

    @torch.inference_mode()
    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        out = np.empty((len(inputs), self.facts.dim), dtype=np.float32)
        for batch in self._batches(inputs):
            found = self._model.vectors([inputs[i] for i in batch])
            out[batch] = found[:, : self.facts.dim].float().cpu().numpy()
        return unit(out)

    @torch.inference_mode()
    def encode_query(self, text: str) -> np.ndarray:
        if "text" not in self.facts.queries:
            raise EncoderUnusable(
                f"{self.facts.space_id} is a space of {self.facts.modality} alone: its model knows no text. "
                f"Search it by {self.facts.modality}, or encode the collection with a joint model, as CLIP"
            )
        found = self._model.text_vectors(self.facts.query_prompt + text)
        vector: np.ndarray = unit(found[:, : self.facts.dim].float().cpu().numpy())[0]
        return vector

    def _batches(self, inputs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Indices of inputs that share a forward pass, each input once."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, one in enumerate(inputs):
            groups[() if self._model.pads else one.shape].append(i)
        for members in groups.values():
            indices = np.array(members)
            for batch in pack([inputs[i].size for i in members], VALUES_PER_PASS[self.device]):
                yield indices[batch]

    def _check(self, golden: list[np.ndarray]) -> np.ndarray:
        """Vectors of the golden inputs; refused if the files promise more dims than come out."""
        with torch.inference_mode():
            width = self._model.vectors(golden[:1]).shape[1]
        if width < self.facts.dim:
            raise EncoderUnusable(
                f"{self.facts.folder} gives vectors of {width} dims, its configuration says "
                f"{self.facts.dim}; the folder mixes files of different models"
            )
        return self._vectors_of(golden)

    def _vectors_of(self, golden: list[np.ndarray]) -> np.ndarray:
        vectors = self.encode(golden)
        if "text" not in self.facts.queries:
            return vectors
        return np.vstack([vectors, self.encode_query(_GOLDEN_TEXT)])

    def _try_bf16(self, golden: list[np.ndarray], exact: np.ndarray) -> None:
        kept = self._model
        self._model = copy.deepcopy(kept)  # a copy: buffers that no checkpoint holds are rounded as well
        self._model.module.to(torch.bfloat16)
        if cosines(exact, self._vectors_of(golden)).min() >= SAME_SPACE:
            self.precision = "bf16"
            return
        self._model = kept


class _Transformer:
    """A model as transformers loads it, by the rule of its family."""

    def __init__(self, spec: EncoderSpec, facts: EncoderFacts, family: Family, base: Path) -> None:
        from transformers import AutoModel

        self._facts, self._family = facts, family
        model, told = AutoModel.from_pretrained(
            str(base),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = [name for name in told["missing_keys"] if not name.startswith(_UNTRAINED)]
        if missing:
            raise EncoderUnusable(
                f"the weights of {spec.model} lack {len(missing)} tensors, as {sorted(missing)[0]}, which "
                "would be random; the model was copied in part, or is of another architecture: fetch it again"
            )
        self.module: Any = model.eval()
        self.pads = getattr(model.config, "feat_extract_norm", None) == "layer"
        """Whether waveforms of any lengths share a pass: a group norm would take the padding in."""
        if spec.layers is not None:
            keep_layers(getattr(model, f"{family.tower}_model") if family.tower else model, spec.layers)
        self._tokenizer: Any = _tokenizer(base, model.config.model_type) if family.rule == "joint" else None

    def vectors(self, inputs: list[np.ndarray]) -> torch.Tensor:
        """Vectors (n, width) of inputs of equal shape, or of waveforms of any length if `pads`."""
        features = _features(self.module, self._family, inputs)
        if self._family.rule == "joint":
            return _tensor(getattr(self.module, f"get_{self._family.modality}_features")(**features))
        with warnings.catch_warnings():
            # of torch, about masks that WavLM itself makes of two types
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            output = self.module(**features)
        if self._family.rule == "pooler":
            pooled: torch.Tensor = output.pooler_output.flatten(1)
            return pooled
        states: torch.Tensor = output.last_hidden_state
        if self._family.rule == "cls":
            first: torch.Tensor = states[:, 0]
            return first
        if "attention_mask" not in features:
            mean: torch.Tensor = states.mean(dim=1)
            return mean
        mask = self.module._get_feature_vector_attention_mask(states.shape[1], features["attention_mask"])
        mask = mask.unsqueeze(-1).to(states.dtype)
        masked: torch.Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return masked

    def text_vectors(self, text: str) -> torch.Tensor:
        """The vector (1, width) of a text, by a joint model; what is beyond `max_tokens` is cut."""
        # SigLIP was trained in lower case with padding up to the end, and takes the state of the last place
        padded = self.module.config.model_type.startswith("siglip")
        tokens: Any = self._tokenizer(
            text.lower() if padded else text,
            padding="max_length" if padded else False,
            truncation=True,
            max_length=self._facts.max_tokens,
            return_tensors="pt",
        )
        return _tensor(self.module.get_text_features(**tokens.to(self.module.device)))


class _SentenceTransformer:
    """A folder with modules.json as sentence-transformers loads it: its modules say what the vector is."""

    pads = False

    def __init__(self, spec: EncoderSpec, facts: EncoderFacts, family: Family, base: Path) -> None:
        from sentence_transformers import SentenceTransformer

        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        self._family, self._max_tokens = family, facts.max_tokens
        self.module: Any = SentenceTransformer(
            str(facts.folder),
            device="cpu",
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).eval()
        missing = set(facts.queries) - set(self.module[0].modalities)
        if missing:
            raise EncoderUnusable(
                f"{spec.model} says in its modules that it takes no {' and no '.join(missing)}"
            )
        if spec.layers is not None:
            backbone = self.module.transformers_model
            keep_layers(getattr(backbone, f"{family.tower}_model") if family.tower else backbone, spec.layers)

    def vectors(self, inputs: list[np.ndarray]) -> torch.Tensor:
        """Vectors (n, width) of inputs of equal shape."""
        features = _features(self.module.transformers_model, self._family, inputs)
        return self._embedded({**features, "modality": self._family.modality})

    def text_vectors(self, text: str) -> torch.Tensor:
        """The vector (1, width) of a text, by a joint model."""
        device = self.module.device
        features = self.module.preprocess([text], max_length=self._max_tokens)
        return self._embedded({k: v.to(device) if torch.is_tensor(v) else v for k, v in features.items()})

    def _embedded(self, features: dict[str, Any]) -> torch.Tensor:
        result: torch.Tensor = self.module(features)["sentence_embedding"]
        return result


def _tokenizer(base: Path, kind: str) -> Any:
    """The tokenizer in a model's folder.

    That of SigLIP is read from tokenizer.json: its class in transformers is another reader of the same
    vocabulary, which needs sentencepiece.
    """
    import transformers

    said = read_json(base / "tokenizer_config.json").get("tokenizer_class")
    as_file = kind == "siglip" and said in (None, "SiglipTokenizer") and (base / "tokenizer.json").is_file()
    library: Any = transformers.PreTrainedTokenizerFast if as_file else transformers.AutoTokenizer
    return library.from_pretrained(str(base), trust_remote_code=False, local_files_only=True)


def _features(model: Any, family: Family, inputs: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """What a model is called with: inputs in one tensor, and a mask where there is padding or could be."""
    longest = max(len(one) for one in inputs)
    lengths = [len(one) for one in inputs]
    if min(lengths) < longest:
        inputs = [np.pad(one, (0, longest - len(one))) for one in inputs]
    values = torch.from_numpy(np.stack(inputs)).to(model.device, model.dtype)
    features = {family.takes: values}
    if getattr(model.config, "feat_extract_norm", None) == "layer":
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        features["attention_mask"] = mask.long().to(model.device)
    if model.config.model_type == "clap":
        # no window is longer than it reads: its extractor says so of one of each batch, drawn at random
        features["is_longer"] = torch.zeros(len(inputs), 1, dtype=torch.bool)
    if model.config.model_type.startswith("siglip2"):
        n, rows, columns, _ = values.shape
        features[family.takes] = values.flatten(1, 2)
        features["pixel_attention_mask"] = torch.ones(
            n, rows * columns, dtype=torch.long, device=model.device
        )
        features["spatial_shapes"] = torch.tensor([[rows, columns]] * n)
    return features


def _tensor(output: Any) -> torch.Tensor:
    """The vectors in what `get_..._features` gives, which has been a tensor and an object around one."""
    found: torch.Tensor = output if torch.is_tensor(output) else output.pooler_output
    return found


def _golden(preparer: MediaPreparer) -> list[np.ndarray]:
    """Inputs of fixed content on which precisions are compared, of equal shape."""
    random = np.random.default_rng(0)
    if preparer.rate:
        at = np.arange(preparer.rate, dtype=np.float32) / preparer.rate
        noise = random.standard_normal(len(at)).astype(np.float32)
        waves = [np.sin(2 * np.pi * 440 * at), np.sin(2 * np.pi * (100 + 900 * at) * at), 0.3 * noise]
        return [preparer.prepare(wave[: preparer.longest or len(wave)]) for wave in waves]
    side = 256
    row, column = np.mgrid[:side, :side]
    pictures = [
        np.stack([row, column, 255 - row], axis=-1),
        np.stack([(row // 32 + column // 32) % 2 * 255] * 3, axis=-1),
        random.integers(0, 256, (side, side, 3)),
    ]
    return [preparer.prepare(Image.fromarray(p.astype(np.uint8))) for p in pictures]
