"""`builtin:image-scatter`: images by two-dimensional wavelet scattering and a histogram of colour.

Scattering (Mallat 2012, "Group invariant scattering", eq. 2.19; Bruna & Mallat 2013, "Invariant scattering
convolution networks", eq. 5 to 8) with Morlet wavelets ψ of J scales and L angles (Bruna & Mallat, sec.
2.1) and a Gaussian φ of scale 2^J:

    U1[j, θ] = |x ⋆ ψ(j, θ)|,   U2[j, θ, j', θ'] = |U1[j, θ] ⋆ ψ(j', θ')| with j' > j,   S = U ⋆ φ

Order 1 of a colour is the length of the vector of its three responses, as of a gradient (Di Zenzo 1986), so
that edges without a change in brightness count. Filters are periodic, every response is kept at the rate
2^-j of its scale (S is within 8 % of its greatest value of what whole convolutions give), and S is taken at
the centres of a grid of cells.

A vector is the unit vector along these blocks:

    order 2     J(J-1)/2 · L · L · cells²    864   in each cell over the length of all of them
    order 1     J · L · cells²               144   the same; `first_weight`
    chroma      chroma²                       81   square roots of a histogram; `colour_weight`
    luma        luma                           5   the same; `colour_weight` · `luma_weight`

Order 1 and 2 less their mean over scales and angles and over pairs of angles: what is left sums to zero,
and does not change with contrast. Of a plain image only the histograms are left, which are never zero.

Tried on glyphs and textures, part `dev` of tests/benchmarks/labelled.py, other faces or lights only; cosine,
top-1 and P@10 (a texture comes in four colourings: 0.25 is the most that can be had without colour):

                                            glyphs          textures
    32 × 32 grey pixels                     0.258  0.114    0.127  0.067
    … less their mean                       0.357  0.148    0.171  0.130
    histogram of 4 × 4 × 4 colours          0.027  0.033    0.915  0.411
    order 1, side 64, J 4, L 8              0.688  0.384    0.267  0.250
    order 2, the same                       0.789  0.494    0.250  0.236
    … with a reflected margin of 16         0.765  0.464    0.271  0.242
    … square root                           0.754  0.452    0.256  0.240
    … over the length in its cell           0.824  0.554    0.250  0.236
    side 32, J 3, L 8, the same             0.861  0.594    0.237  0.238
    … padded to a square                    0.881  0.627    0.246  0.235
    … and less means over angles            0.894  0.647    0.235  0.224
    side 64, J 5, L 6, the same             0.870  0.627    0.240  0.217    1,440 dims
    side 48, J 4, L 6, the same             0.905  0.668    0.260  0.215    1,944 dims
    side 48, J 4, L 4, the same             0.889  0.655    0.248  0.217      864 dims
    … finest scale × 0.3                    0.903  0.668    0.215  0.209
    … order 1 × 0.5                         0.909  0.668    0.235  0.225
    … RGB histogram × 0.5                   0.732  0.562    0.781  0.558
    … or moments of colour × 0.5            0.881  0.645    0.450  0.320
    … or chroma histogram × 0.5             0.722  0.551    0.912  0.711
    … or chroma × 0.5, luma × 0.15          0.747  0.564    0.902  0.686
    … or chroma × 0.55, luma × 0.165        0.697  0.536    0.938  0.697
    … and 3 × 3 means of luma × 0.3         0.667  0.483    0.938  0.696
    box filter, finest × 1, order 1 × 0.8   0.751  0.540    0.965  0.758
    … squashed to a square                  0.687  0.496    0.983  0.788
    … cropped to a square                   0.745  0.534    0.979  0.824
    … mirrored to a square                  0.708  0.508    0.977  0.859
    … and colour × 0.5: as it is            0.745  0.533    0.967  0.817

The glyphs have random colours and the textures are nothing without: the weight is chosen between the two.
Cropping scores as well as mirroring, but leaves out what lies at the ends of a wide image. Order 0 is in
the histogram of luma alone: a map of it does no good where ink and ground may change places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from encoders import builtin
from encoders.spec import EncoderFacts, EncoderSpec

if TYPE_CHECKING:
    import torch

MODEL = "builtin:image-scatter"
IMAGES_PER_PASS = {"cpu": 32, "cuda": 1024}
"""Images of one forward pass: on a CPU what fits its caches, on a GPU what fills it."""

_FAINT = 0.05
"""Added to the length of a block, so that rounding errors of a plain image are not made large."""

_VERSION = "image-scatter:1"
"""Raised with every change of this module that moves vectors."""


@dataclass(frozen=True)
class Settings:
    """Everything that moves vectors but the code."""

    side: int = 48
    """Pixels of the square that is transformed."""
    scales: int = 4
    angles: int = 4
    soft: float = 0.1
    """Share of the image's root mean square that is added to a cell's length, so that empty cells stay so."""
    floor: float = 2e-2
    """Added too: contrast, of 1, below which structure fades into nothing."""
    first_weight: float = 0.8
    colour_weight: float = 0.5
    luma_weight: float = 0.3
    chroma: int = 9
    luma: int = 5
    dark: float = 0.15
    """Sum of red, green and blue, of 3, below which the chroma of a pixel fades into grey."""

    @property
    def cells(self) -> int:
        """Along each side."""
        return self.side >> self.scales

    @property
    def dim(self) -> int:
        """Length of a vector."""
        pairs = self.scales * (self.scales - 1) // 2
        structure = (pairs * self.angles + self.scales) * self.angles * self.cells**2
        return structure + self.chroma**2 + self.luma


SETTINGS = Settings()


def describe(spec: EncoderSpec) -> EncoderFacts:
    """The facts of `builtin:image-scatter`; raises `EncoderUnusable` for settings that it does not have."""
    return builtin.facts(spec, "image", "scatter", SETTINGS.dim, _VERSION, SETTINGS)


class ScatterPreparer:
    """Fits the whole image into the square, keeps its aspect ratio, and mirrors it on to the borders."""

    least = 2 * SETTINGS.side
    rate = 0

    def prepare(self, decoded: Any) -> np.ndarray:
        """Of a `PIL.Image` in RGB, uint8 (side, side, 3)."""
        side = SETTINGS.side
        how = Image.Resampling.BOX if max(decoded.size) > side else Image.Resampling.BILINEAR
        width, height = (max(1, round(side * n / max(decoded.size))) for n in decoded.size)
        small = np.asarray(decoded.resize((width, height), how), dtype=np.uint8)
        above, left = (side - height) // 2, (side - width) // 2
        margins = ((above, side - height - above), (left, side - width - left), (0, 0))
        return np.pad(small, margins, mode="symmetric")


class ScatterEncoder:
    """Of uint8 (side, side, 3), unit vectors float32 (dim,); on a GPU the same within 1e-4.

    The vector of an image depends on its batch by no more than the order of float32 sums: 1e-5.
    """

    def __init__(
        self,
        facts: EncoderFacts,
        device: Literal["cpu", "cuda"] | None = None,
        threads: int | None = None,
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self.facts = facts
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._scattering = Scattering(SETTINGS, self.device)

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        out = np.empty((len(inputs), self.facts.dim), dtype=np.float32)
        step = IMAGES_PER_PASS[self.device]
        with torch.inference_mode():
            for first in range(0, len(inputs), step):
                pixels = torch.from_numpy(np.stack(inputs[first : first + step])).to(self.device)
                vectors = self._vectors(pixels.permute(0, 3, 1, 2).float() / 255)
                out[first : first + step] = vectors.cpu().numpy()
        return out

    def encode_query(self, text: str) -> np.ndarray:
        raise builtin.refuse_text(MODEL, "image")

    def _vectors(self, images: "torch.Tensor") -> "torch.Tensor":
        import torch

        first, second = self._scattering(images)
        chroma, luma = _histograms(images, SETTINGS)
        blocks = (
            (1.0, _structure(second, SETTINGS, over=(2, 3))),
            (SETTINGS.first_weight, _structure(first, SETTINGS, over=(1, 2))),
            (SETTINGS.colour_weight, chroma),
            (SETTINGS.colour_weight * SETTINGS.luma_weight, luma),
        )
        whole = torch.cat([weight * block.flatten(1) for weight, block in blocks], dim=1)
        vectors: torch.Tensor = whole / whole.norm(dim=1, keepdim=True)
        return vectors


class Scattering:
    """The transform itself, of (n, channels, side, side).

    `bands` is float32 (J, L, side, side) and `low` complex64 (side, side): the Fourier transforms of the
    wavelets, which are real, and of φ, moved to the centre of the first cell.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        import torch

        self.settings = settings
        side, scales = settings.side, settings.scales
        bands, low = filters(side, scales, settings.angles)
        middle = np.exp(2j * np.pi * np.fft.fftfreq(side) * (2**scales - 1) / 2)
        moved = low * middle[:, None] * middle
        self.bands = torch.tensor(bands, dtype=torch.float32, device=device)
        self.low = torch.tensor(moved, dtype=torch.complex64, device=device)

    def __call__(self, images: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor"]:
        """Order 1, (n, J, L, cells, cells), and order 2, (n, J(J-1)/2, L, L, cells, cells)."""
        import torch

        first, second = [], []
        whole = torch.fft.fft2(images)
        for j in range(self.settings.scales):
            # (n, channels, L, …): the length over channels is what the next order sees
            responses = self._band(whole, 0, j).abs().square().sum(1).sqrt()
            spectrum = torch.fft.fft2(responses)
            first.append(self._smooth(spectrum, j))
            second += [
                self._smooth(torch.fft.fft2(self._band(spectrum, j, k).abs()), k)
                for k in range(j + 1, self.settings.scales)
            ]
        return torch.stack(first, 1), torch.stack(second, 1)

    def _band(self, spectrum: "torch.Tensor", at: int, to: int) -> "torch.Tensor":
        """Through the wavelets of scale `to`, from the rate 2^-at to the rate 2^-to."""
        import torch

        wavelets = _aliased(self.bands[to], 2**at)
        step = 2 ** (to - at)
        responses: torch.Tensor = torch.fft.ifft2(_aliased(spectrum.unsqueeze(-3) * wavelets, step) / step**2)
        return responses

    def _smooth(self, spectrum: "torch.Tensor", at: int) -> "torch.Tensor":
        """Through φ, from the rate 2^-at to the cells."""
        import torch

        step = 2 ** (self.settings.scales - at)
        smooth: torch.Tensor = torch.fft.ifft2(_aliased(spectrum * _aliased(self.low, 2**at), step) / step**2)
        return smooth.real


def filters(side: int, scales: int, angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Fourier transforms, real, float64: of ψ (J, L, side, side) and of φ (side, side).

    ψ(j, θ) is a Morlet wavelet (Bruna & Mallat 2013, sec. 2.1) of ξ = 3π/4 · 2^-j, and of σ = 0.8 · 2^j
    along the wave and L / 4 of that along its crests; φ is a Gaussian of σ = 0.8 · 2^(J-1). Every ψ is 0
    at frequency 0, where φ is 1. One factor for all ψ, the greatest that does it, keeps the
    Littlewood-Paley sum |φ|² + ½ Σ |ψ(ω)|² + |ψ(-ω)|² at 1 or below (ibid., eq. 3 and 4): the transform
    does not expand distances between real images.
    """
    bands = np.empty((scales, angles, side, side))
    for j in range(scales):
        for turn in range(angles):
            shape = (side, 0.8 * 2**j, np.pi * turn / angles, 4 / angles)
            gauss, wave = _periodic(*shape, 0.0), _periodic(*shape, 0.75 * np.pi / 2**j)
            bands[j, turn] = np.fft.fft2((wave - wave.sum() / gauss.sum() * gauss) / np.abs(gauss).sum()).real
    gauss = _periodic(side, 0.8 * 2 ** (scales - 1), 0.0, 1.0, 0.0)
    low: np.ndarray = np.fft.fft2(gauss / gauss.sum()).real
    room, taken = 1 - low.flat[1:] ** 2, (littlewood_paley(bands, low) - low**2).flat[1:]
    bands *= np.sqrt((room / taken).min())
    return bands, low


def littlewood_paley(bands: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The share of a real image's energy at each frequency that the filters keep, (side, side)."""
    energy = (bands**2).sum((0, 1))
    mirrored = np.roll(energy[::-1, ::-1], 1, (0, 1))
    kept: np.ndarray = low**2 + (energy + mirrored) / 2
    return kept


def _periodic(side: int, sigma: float, theta: float, slant: float, xi: float) -> np.ndarray:
    """A Gaussian times a plane wave of frequency `xi` along `theta`, complex (side, side), wrapped around.

    `sigma` is its deviation along the wave, and `sigma / slant` along the crests.
    """
    y, x = np.mgrid[-2 * side : 3 * side, -2 * side : 3 * side]
    along, across = np.cos(theta) * x + np.sin(theta) * y, np.cos(theta) * y - np.sin(theta) * x
    wave = np.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2) + 1j * xi * along)
    wrapped: np.ndarray = wave.reshape(5, side, 5, side).sum((0, 2))
    return wrapped


def _aliased(spectrum: "torch.Tensor", step: int) -> "torch.Tensor":
    """The spectrum (…, n, n) of every `step`-th sample, times step²: (…, n / step, n / step)."""
    n = spectrum.shape[-1]
    return spectrum.reshape(*spectrum.shape[:-2], step, n // step, step, n // step).sum((-4, -2))


def _structure(responses: "torch.Tensor", settings: Settings, over: tuple[int, int]) -> "torch.Tensor":
    """Of (n, scales, …, cells, cells) the same shape, of length 1 or, of a nearly plain image, less."""
    length = responses.square().sum(tuple(range(1, responses.ndim - 2)), keepdim=True).sqrt()
    usual = length.square().mean((-2, -1), keepdim=True).sqrt()
    even = responses / (length + settings.soft * usual + settings.floor)
    centred = even - even.mean(over, keepdim=True)
    whole = centred.flatten(1).norm(dim=1).reshape(-1, *[1] * (centred.ndim - 1))
    block: torch.Tensor = centred / (whole + _FAINT)
    return block


def _histograms(images: "torch.Tensor", settings: Settings) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Square roots (Hellinger) of the shares of pixels, (n, chroma²) and (n, luma), each of length 1.

    Chroma is R - G and (R + G) / 2 - B over the mean of R, G and B: what the brightness of the light
    leaves as it is. Every pixel counts in the neighbouring bins by its distance to their centres.
    """
    import torch

    red, green, blue = images.flatten(2).unbind(1)
    light = (red + green + blue).clamp_min(settings.dark) / 1.5
    first, second = (red - green) / light, (red + green - 2 * blue) / (2 * light)
    one, other = (_bins(0.5 + chroma / 2, settings.chroma) for chroma in (first, second))
    pixels = red.shape[1]
    chroma = torch.bmm(one.transpose(1, 2), other).flatten(1) / pixels
    luma = _bins(0.299 * red + 0.587 * green + 0.114 * blue, settings.luma).mean(1)
    roots = (chroma.sqrt(), luma.sqrt())
    return roots[0] / roots[0].norm(dim=1, keepdim=True), roots[1] / roots[1].norm(dim=1, keepdim=True)


def _bins(values: "torch.Tensor", count: int) -> "torch.Tensor":
    """Triangular memberships (…, count) of values from 0 to 1; each row sums to one."""
    import torch

    centres = torch.arange(count, dtype=values.dtype, device=values.device)
    return (1 - (values.clamp(0, 1)[..., None] * (count - 1) - centres).abs()).clamp_min(0)
