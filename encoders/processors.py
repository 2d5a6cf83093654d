"""Decoded images and audio to the inputs of a model, by the model's own processor: no weights."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from encoders.backbone import quiet_transformers
from encoders.errors import EncoderUnusable
from encoders.families import Family, family_of
from encoders.files import modules_of, read_json
from encoders.media_files import AST_HOP, BACKEND
from encoders.spec import EncoderFacts, EncoderSpec

_ONLY_TORCHVISION = "DINOv3ViTImageProcessor"
"""Has no Pillow variant in transformers. Its steps are those of ViT's, on rescaled instead of whole numbers:
less than half a step of 255 apart."""

_LONGEST_SIDES = 16
"""Longer to shorter side of an image beyond which it is cropped before, and not only after, it is enlarged:
of one pixel by ten thousand two million would be made, of which the middle is kept."""

_LEAST_SECONDS = 0.1
"""Shorter windows are filled up with silence: convolutions and spectrograms need some samples."""

_AST_FRAME = 400


class MediaPreparer:
    """The image processor or feature extractor in the folder of a model, at work on one chunk.

    Images are resized by Pillow, whatever else is installed. Audio is refused where the model would read
    only a part of it. Raises `EncoderUnusable` if the folder's processor cannot be loaded.
    """

    def __init__(self, spec: EncoderSpec, facts: EncoderFacts) -> None:
        if facts.folder is None:
            raise EncoderUnusable(f"{spec.model} has no files to load")
        quiet_transformers()
        base = modules_of(facts.folder)[0][1]
        family = family_of(read_json(base / "config.json"))
        if family is None:
            raise EncoderUnusable(f"{spec.model} is of no family that encodes {spec.modality}")
        self._model, self._family = spec.model, family
        self._processor = _loaded(spec, base, family)
        is_image = family.modality == "image"
        self.least = _shorter_side(self._processor) if is_image else 0
        self.rate = 0 if is_image else int(self._processor.sampling_rate)
        self.longest = 0 if is_image else _samples_read(self._processor)
        """Samples of the longest window that the model reads whole; 0 if it reads any."""

    def prepare(self, decoded: Any) -> np.ndarray:
        """The input of one chunk, float32, without a batch dimension; equal chunks give equal bytes.

        Of an image (`PIL.Image` in RGB) (channels, height, width), or (rows, columns, values of a patch)
        where the model takes images of any aspect ratio. Of audio (mono float32 samples at `rate`) what
        its extractor makes: (samples,), (frames, mels) or (copies, frames, mels). Raises `EncoderUnusable`
        for a window that the model would cut.
        """
        if self._family.modality == "image":
            return self._prepare_image(decoded)
        return self._prepare_audio(np.asarray(decoded, dtype=np.float32))

    def _prepare_image(self, image: Image.Image) -> np.ndarray:
        if getattr(self._processor, "do_center_crop", False):
            image = _without_far_ends(image)
        # said outright: of an image three pixels high the library cannot tell where its channels are
        made = self._processor(images=image, input_data_format="channels_last", return_tensors="np")
        values = np.asarray(made["pixel_values"][0], dtype=np.float32)
        if "spatial_shapes" not in made:
            return values
        rows, columns = (int(n) for n in made["spatial_shapes"][0])
        return values[: rows * columns].reshape(rows, columns, -1)  # the rest is padding

    def _prepare_audio(self, samples: np.ndarray) -> np.ndarray:
        if self.longest and len(samples) > self.longest:
            raise EncoderUnusable(
                f"{self._model} reads at most {self.longest / self.rate:.2f} s of audio and would drop the "
                f"rest of a window of {len(samples) / self.rate:.2f} s; cut windows of "
                f"{self.longest / self.rate:.2f} s or less"
            )
        missing = math.ceil(_LEAST_SECONDS * self.rate) - len(samples)
        if missing > 0:
            samples = np.pad(samples, (0, missing))
        made = self._processor(samples, sampling_rate=self.rate, return_tensors="np")
        return np.asarray(made[self._family.takes][0], dtype=np.float32)


def _loaded(spec: EncoderSpec, base: Path, family: Family) -> Any:
    """The processor in a model's folder, with remote code off and Pillow as the pinned backend."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, ViTImageProcessorPil

    own = read_json(base / "processor_config.json").get("image_processor")
    own = own or read_json(base / "preprocessor_config.json")
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    library: Any = AutoImageProcessor if family.modality == "image" else AutoFeatureExtractor
    try:
        if str(own.get("image_processor_type", "")).removesuffix("Fast") == _ONLY_TORCHVISION:
            standing_in: Any = ViTImageProcessorPil
            return standing_in.from_dict(own)
        if family.modality == "image":
            settings["backend"] = BACKEND
        return library.from_pretrained(str(base), **settings)
    except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
        raise EncoderUnusable(f"the processor of {spec.model} cannot be loaded: {error}") from error


def _shorter_side(processor: Any) -> int:
    """Pixels of the shorter side to which the processor reduces an image, whatever its aspect ratio."""
    if not processor.do_resize:
        return sys.maxsize
    patches = getattr(processor, "max_num_patches", None)
    if patches:
        return math.ceil(math.sqrt(patches)) * int(processor.patch_size)
    sides = [n for n in dict(processor.size).values() if n]
    if not sides:
        raise EncoderUnusable(f"{type(processor).__name__} does not say to which size it brings an image")
    return int(max(sides))


def _samples_read(processor: Any) -> int:
    """Samples that fit into the fixed input of a spectrogram model; 0 where the input is of any length."""
    if hasattr(processor, "nb_max_samples"):  # CLAP, which beyond it takes crops at random
        return int(processor.nb_max_samples)
    if hasattr(processor, "num_mel_bins"):  # AST
        return int(processor.max_length) * AST_HOP + _AST_FRAME - 1
    return 0


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is far longer than wide, of which a centre crop would keep less still."""
    width, height = image.size
    longest = _LONGEST_SIDES * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
