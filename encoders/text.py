"""Text encoders, loaded by sentence-transformers and batched by our own rule."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from encoders.backbone import SAME_SPACE, cosines, keep_layers, quiet_transformers, unit
from encoders.batching import pack
from encoders.errors import EncoderUnusable
from encoders.protocol import Tokenizer
from encoders.spec import EncoderFacts, EncoderSpec
from encoders.tokens import ModelTokenizer

TOKENS_PER_PASS = {"cpu": 1024, "cuda": 32_768}
"""Padded tokens of one forward pass: on a CPU what fits its caches, on a GPU what fills it."""

GOLDEN_TEXTS = (
    "Return the absolute value of the argument.",
    "Grüße aus Zürich — naïve café, 東京, Ελλάδα, 🙂",
    "x = [i**2 for i in range(10)]  # squares\n>>> sum(x)\n285",
    "The quick brown fox jumps over the lazy dog. " * 12,
)
"""Fixed inputs on which precisions are compared and encoders recognised."""

Precision = Literal["auto", "fp32"]


class TextEncoder:
    """A sentence-transformers model: its own modules, prompts and pooling; our order and batches.

    Runs in bf16 where the machine has the instructions for it and the golden texts come out at a
    cosine of at least 0.9999 to fp32, else in fp32. Vectors are float32 and of unit norm if the
    model has a Normalize module. Raises `EncoderUnusable` if the loaded model contradicts its files.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        facts: EncoderFacts,
        *,
        device: Literal["cpu", "cuda"] | None = None,
        threads: int | None = None,
        precision: Precision = "auto",
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if facts.tokenizer_folder is None:
            raise EncoderUnusable(f"{spec.model} has no files to load")
        self.facts = facts
        self.tokenizer: Tokenizer = ModelTokenizer(facts.tokenizer_folder)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = _load(spec, facts, self.device)
        self._normalizes = any(isinstance(m, Normalize) for m in self._model)
        self.precision = "fp32"
        self._check_dim()
        if precision == "auto" and _has_bf16(self.device):
            self._try_bf16()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self._encode(texts, self.facts.document_prompt, "document")

    def encode_query(self, text: str) -> np.ndarray:
        vector: np.ndarray = self._encode([text], self.facts.query_prompt, "query")[0]
        return vector

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], prompt: str, task: str) -> np.ndarray:
        extra = self.tokenizer.special_tokens + (self.tokenizer.count([prompt])[0] if prompt else 0)
        lengths = [min(n + extra, self.facts.max_tokens) for n in self.tokenizer.count(texts)]
        out = np.empty((len(texts), self.facts.dim), dtype=np.float32)
        for batch in pack(lengths, TOKENS_PER_PASS[self.device]):
            features = self._model.preprocess([texts[i] for i in batch], prompt=prompt or None, task=task)
            result = self._model(self._to_device(features), task=task)["sentence_embedding"]
            out[batch] = result[:, : self.facts.dim].float().cpu().numpy()
        return unit(out) if self._normalizes else out

    def _check_dim(self) -> None:
        with torch.inference_mode():
            result = self._model(self._to_device(self._model.preprocess(["golden"])))["sentence_embedding"]
        if result.shape[1] < self.facts.dim:
            raise EncoderUnusable(
                f"{self.facts.folder} gives vectors of {result.shape[1]} dims, its configuration says "
                f"{self.facts.dim}; the folder mixes files of different models"
            )

    def _to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}

    def _try_bf16(self) -> None:
        exact = self.encode(GOLDEN_TEXTS)
        kept = copy.deepcopy(self._model.state_dict())
        self._model.to(torch.bfloat16)
        if cosines(exact, self.encode(GOLDEN_TEXTS)).min() >= SAME_SPACE:
            self.precision = "bf16"
            return
        self._model.to(torch.float32)
        self._model.load_state_dict(kept)


def _load(spec: EncoderSpec, facts: EncoderFacts, device: str) -> SentenceTransformer:
    """Load with remote code off and safetensors only, quietly; keep `layers` of the transformer."""
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    quiet_transformers()
    try:
        model = SentenceTransformer(
            str(facts.folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise EncoderUnusable(f"{spec.model} cannot be loaded: {error}") from error
    model.eval()
    if not isinstance(model[0], StaticEmbedding):  # which reads a text of any length
        model.max_seq_length = facts.max_tokens
    if spec.layers is not None:
        backbone = model.transformers_model
        if backbone is None:
            raise EncoderUnusable("`layers` needs a transformer to cut, and this model has none")
        keep_layers(backbone, spec.layers)
    return model


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
