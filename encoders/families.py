"""The families of models for images or audio: what each takes, and which of its outputs is the vector.

One rule per family, so that the same files give the same vectors for ever:

- joint (CLIP, SigLIP, SigLIP2; CLAP): `get_image_features` or `get_audio_features`, the space that texts
  are put into by `get_text_features`.
- cls (ViT, DeiT, DINOv2, DINOv3): the class token of the last layer, after its normalisation. ViT and DeiT
  have a pooler too, but few checkpoints have trained it.
- pooler (towers of CLIP and SigLIP alone, DINOv3-ConvNeXt, AST): `pooler_output`, which is trained with the
  rest or has no weights. That of AST is the mean of its class and its distillation token.
- mean (Wav2Vec2, HuBERT, WavLM): the mean over time of the last layer, of frames that are not padding.

A sentence-transformers folder says by its own modules what the vector is; of the rules only what a model
takes holds for it.
"""

from dataclasses import dataclass
from typing import Any, Literal

from encoders.spec import Modality

Rule = Literal["joint", "cls", "pooler", "mean"]


@dataclass(frozen=True)
class Family:
    """What is common to the models of one `model_type`."""

    modality: Modality
    takes: str
    """Name of the model's input."""
    rule: Rule
    tower: str = ""
    """Of a joint model: its part for images or audio, as `vision` or `audio`."""
    staged: bool = False
    """Its layers are in stages of different widths, so that none can be left out."""

    @property
    def queries(self) -> tuple[Modality, ...]:
        return (self.modality, "text") if self.rule == "joint" else (self.modality,)


_VISION_JOINT = Family("image", "pixel_values", "joint", tower="vision")
_VISION_CLS = Family("image", "pixel_values", "cls")
_VISION_POOLER = Family("image", "pixel_values", "pooler")
_SPEECH = Family("audio", "input_values", "mean")

FAMILIES: dict[str, Family] = {
    "clip": _VISION_JOINT,
    "siglip": _VISION_JOINT,
    "siglip2": _VISION_JOINT,
    "clip_vision_model": _VISION_POOLER,
    "siglip_vision_model": _VISION_POOLER,
    "siglip2_vision_model": _VISION_POOLER,
    "vit": _VISION_CLS,
    "deit": _VISION_CLS,
    "dinov2": _VISION_CLS,
    "dinov2_with_registers": _VISION_CLS,
    "dinov3_vit": _VISION_CLS,
    "dinov3_convnext": Family("image", "pixel_values", "pooler", staged=True),
    "clap": Family("audio", "input_features", "joint", tower="audio", staged=True),
    "audio-spectrogram-transformer": Family("audio", "input_values", "pooler"),
    "wav2vec2": _SPEECH,
    "hubert": _SPEECH,
    "wavlm": _SPEECH,
}
"""By `model_type` of config.json."""


def family_of(config: dict[str, Any]) -> Family | None:
    """The family of a model by its config.json; None for one of text, or unknown."""
    return FAMILIES.get(str(config.get("model_type")))
