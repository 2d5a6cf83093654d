"""Small models of each family in the formats that real ones come in: random seeded weights, real processors.

`write(NAME, folder)` fills a folder; NAMES has those of all, IMAGE, AUDIO and JOINT of some.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.encoders.joint import clip_tokenizer

SIDE = 32
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": SIDE, "patch_size": 8}
SPEECH = {
    **TOWER,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 5),
    "conv_stride": (5, 16),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 8,
}
WORDS = ["red", "green", "blue", "circle", "square", "a", "photo", "of", "the", "sound", "dog"]


def write(name: str, folder: Path) -> Path:
    """Write one of the models below; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return _WRITERS[name](folder)


def _written(folder: Path, model: Any, *others: Any) -> Path:
    """Save a model and its processor; with larger weights than new ones have, that inputs may differ."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    for part in (model, *others):
        part.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """As openai/clip-vit-base-patch32: preprocessor_config.json, a byte-level BPE."""
    tokenizer = clip_tokenizer(tuple(WORDS))
    text = {
        **TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=20)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return _written(folder, transformers.CLIPModel(config), processor, tokenizer)


def _word_tokenizer(longest: int, **settings: Any) -> Any:
    """Words to ids, an end after each text: what SigLIP's and CLAP's look like from outside."""
    vocabulary = {t: i for i, t in enumerate(["<pad>", "</s>", "<unk>", "<s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=longest,
        **settings,
    )


def _siglip(folder: Path, kind: str, vision: dict[str, Any], processor: Any, tokenizer: Any) -> Path:
    text = {**TOWER, "vocab_size": 32, "max_position_embeddings": 12, "projection_size": TOWER["hidden_size"]}
    text |= {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    return _written(folder, getattr(transformers, f"{kind}Model")(config), processor, tokenizer)


def siglip(folder: Path) -> Path:
    """As google/siglip-base-patch16-224 and google/siglip2-base-patch16-224."""
    processor = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    tokenizer = _word_tokenizer(12, model_input_names=["input_ids"])
    return _siglip(folder, "Siglip", VISION, processor, tokenizer)


def siglip2(folder: Path) -> Path:
    """As google/siglip2-base-patch16-naflex: images keep their aspect ratio."""
    vision = {**TOWER, "patch_size": 8, "num_patches": 16}
    processor = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    letters = {t: i for i, t in enumerate(["<pad>", "<eos>", "<unk>", "<bos>", *"▁abcdefghlnoprstu"])}
    tokenizer = transformers.Siglip2Tokenizer(vocab=letters, model_max_length=12)
    return _siglip(folder, "Siglip2", vision, processor, tokenizer)


def siglip_vision(folder: Path) -> Path:
    """The vision tower alone."""
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION))
    return _written(folder, model, transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def vit(folder: Path) -> Path:
    """As google/vit-base-patch16-224: a classifier, whose checkpoint has no pooler."""
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    return _written(folder, model, transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}))


def dinov2(folder: Path) -> Path:
    """As facebook/dinov2-small: resized to 36 and cropped to 32."""
    config = transformers.Dinov2Config(**TOWER, mlp_ratio=2, image_size=SIDE, patch_size=8)
    processor = transformers.BitImageProcessorPil(
        size={"shortest_edge": SIDE + 4}, crop_size={"height": SIDE, "width": SIDE}
    )
    return _written(folder, transformers.Dinov2Model(config), processor)


def dinov3(folder: Path) -> Path:
    """As facebook/dinov3-vits16-pretrain-lvd1689m, whose processor is one of torchvision."""
    config = transformers.DINOv3ViTConfig(**VISION, num_register_tokens=2)
    _written(folder, transformers.DINOv3ViTModel(config))
    (folder / "preprocessor_config.json").write_text(
        '{"crop_size": null, "data_format": "channels_first", "default_to_square": true, "device": null, '
        '"disable_grouping": null, "do_center_crop": null, "do_convert_rgb": null, "do_normalize": true, '
        '"do_rescale": true, "do_resize": true, "image_mean": [0.485, 0.456, 0.406], '
        '"image_processor_type": "DINOv3ViTImageProcessorFast", "image_std": [0.229, 0.224, 0.225], '
        '"input_data_format": null, "resample": 2, "rescale_factor": 0.00392156862745098, '
        f'"return_tensors": null, "size": {{"height": {SIDE}, "width": {SIDE}}}}}'
    )
    return folder


def dinov3_convnext(folder: Path) -> Path:
    """As facebook/dinov3-convnext-tiny-pretrain-lvd1689m."""
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 24], depths=[1, 1, 1, 1])
    processor = transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _written(folder, transformers.DINOv3ConvNextModel(config), processor)


def clap(folder: Path) -> Path:
    """As laion/clap-htsat-unfused; windows of one second."""
    return _clap(folder, fused=False)


def clap_fused(folder: Path) -> Path:
    """As laion/clap-htsat-fused."""
    return _clap(folder, fused=True)


def _clap(folder: Path, *, fused: bool) -> Path:
    text = {**TOWER, "vocab_size": 16, "max_position_embeddings": 14, "pad_token_id": 0, "type_vocab_size": 1}
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "window_size": 4,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 12,
        "hidden_size": 24,
        "enable_fusion": fused,
        "enable_patch_fusion": fused,
    }
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=20)
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8_000,
        hop_length=80,
        max_length_s=1,
        fft_window_size=256,
        frequency_max=4_000,
        truncation="fusion" if fused else "rand_trunc",
    )
    return _written(folder, transformers.ClapModel(config), extractor, _word_tokenizer(12))


def ast(folder: Path) -> Path:
    """As MIT/ast-finetuned-audioset-10-10-0.4593, a classifier; windows of half a second."""
    config = transformers.ASTConfig(**TOWER, patch_size=8, max_length=64, num_mel_bins=16)
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64)
    return _written(folder, transformers.ASTForAudioClassification(config), extractor)


def wav2vec2(folder: Path) -> Path:
    """As facebook/wav2vec2-base-960h: a group norm, for speech recognition."""
    config = transformers.Wav2Vec2Config(**SPEECH, feat_extract_norm="group")
    return _written(folder, transformers.Wav2Vec2ForCTC(config), transformers.Wav2Vec2FeatureExtractor())


def wav2vec2_layer(folder: Path) -> Path:
    """As facebook/wav2vec2-large-lv60: layer norms, and a mask of the padding."""
    return _layer_norms(folder, "Wav2Vec2")


def hubert(folder: Path) -> Path:
    """As facebook/hubert-large-ll60k."""
    return _layer_norms(folder, "Hubert")


def wavlm(folder: Path) -> Path:
    """As microsoft/wavlm-large."""
    return _layer_norms(folder, "WavLM")


def _layer_norms(folder: Path, kind: str) -> Path:
    config = getattr(transformers, f"{kind}Config")(
        **SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return _written(folder, getattr(transformers, f"{kind}Model")(config), extractor)


_SEEING = (clip, siglip, siglip2, siglip_vision, vit, dinov2, dinov3, dinov3_convnext)
_HEARING = (clap, clap_fused, ast, wav2vec2, wav2vec2_layer, hubert, wavlm)
_WRITERS: dict[str, Callable[[Path], Path]] = {w.__name__: w for w in (*_SEEING, *_HEARING)}
NAMES = list(_WRITERS)
IMAGE = [w.__name__ for w in _SEEING]
AUDIO = [w.__name__ for w in _HEARING]
JOINT = ["clip", "siglip", "siglip2", "clap", "clap_fused"]
