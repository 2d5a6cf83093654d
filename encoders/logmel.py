"""`builtin:audio-logmel`: sounds by the statistics of their log-mel spectrum over time.

The logarithm of mel bands of a short-time spectrum, and its cosine transform over the bands (Davis &
Mermelstein 1980, "Comparison of parametric representations for monosyllabic word recognition", eq. 1), with
p[t, b] the power of frame t in band b, over the greatest mean over bands of any frame. A vector is the unit
vector along these blocks, each of length 1:

    trajectory   cepstra · shapes   192   of log(p less `over` × its `quiet` quantile): cepstra, summed over
                                          time with cos(π k u(t)), where u(t), from 0 to 1, advances with
                                          the activity a(t): how far a frame rises above the quiet ones
    modulation   groups · rates     256   of log p: root of the mean power of its fluctuations from 0.8 to
                                          25 Hz, in 1.28 s windows (the modulation spectrum: Greenberg &
                                          Kingsbury 1997, "The modulation spectrogram", sec. 2)
    spectrum     bands               40   of log p: the mean, less its mean over bands; `spectrum_weight`

The first number of the trajectory, which would be the mean level, is the constant `presence` instead: of
silence it is all there is. Gain is thereby left out, and the lead before and after a sound nearly so.

Tried on words and events, part `dev` of tests/benchmarks/labelled.py, other voices or rooms only; cosine,
top-1 and P@10:

                                            words           events
    20 mean cepstra                         0.188  0.089    0.323  0.271
    … without the first: no gain            0.394  0.190    0.379  0.314
    means of 40 log bands, no gain          0.389  0.179    0.327  0.274
    deviations                              0.545  0.324    0.438  0.342
    deviations of differences               0.293  0.140    0.379  0.272
    trajectory 16 × 6, u(t) = time          0.415  0.200    0.425  0.311
    … a(t): energy                          0.550  0.340    0.388  0.302
    … a(t): log energy over a quiet frame   0.720  0.498    0.415  0.324
    … less the quiet frames                 0.753  0.541    0.381  0.323
    … less twice the quiet frames           0.776  0.563    0.369  0.329
    … 24 × 8                                0.797  0.565    0.431  0.338
    modulation, 8 groups × 6 octaves        0.524  0.287    0.973  0.882
    … × 32 rates                            0.611  0.340    0.977  0.878
    … × 40 rates of 2.56 s                  0.446  0.254    0.975  0.806
    trajectory 24 × 8, modulation × 0.8     0.807  0.572    0.979  0.908
    … and deviations × 0.3                  0.807  0.569    0.979  0.908
    … and means × 0.15                      0.804  0.562    0.979  0.908
    … and means × 0.3                       0.781  0.518    0.977  0.902

The means are kept because a steady sound has nothing else; deviations and differences added nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from encoders import builtin
from encoders.spec import EncoderFacts, EncoderSpec

if TYPE_CHECKING:
    import torch

MODEL = "builtin:audio-logmel"

_FAINT = 0.05
"""Added to the length of a block, so that rounding errors of a steady sound are not made large."""

_TINY = 1e-9
_VERSION = "audio-logmel:1"
"""Raised with every change of this module that moves vectors."""


@dataclass(frozen=True)
class Settings:
    """Everything that moves vectors but the code."""

    rate: int = 16_000
    window: int = 400
    """Samples of a frame: 25 ms."""
    hop: int = 160
    """Samples from frame to frame: 10 ms."""
    transform: int = 512
    bands: int = 40
    lowest: float = 20.0
    """Hz; the highest is half the rate."""
    silence: float = 1e-7
    """Power of a band, of samples up to 1, below which a sound fades into silence: rounding to 16 bits."""
    floor: float = 0.01
    """Added to the power before the logarithm, of the greatest mean over bands: 20 dB below it."""
    quiet: float = 0.1
    over: float = 2.0
    rise: float = 1e-3
    """Added to the energy of a quiet frame, of the greatest: below 30 dB nothing is active."""
    cepstra: int = 24
    shapes: int = 8
    presence: float = 0.1
    groups: int = 8
    """Of neighbouring bands, whose mean fluctuates."""
    span: int = 128
    """Frames of a window of modulation; every second half of one begins another."""
    rates: int = 32
    modulation_weight: float = 0.8
    spectrum_weight: float = 0.15

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.cepstra * self.shapes + self.groups * self.rates + self.bands


SETTINGS = Settings()


def describe(spec: EncoderSpec) -> EncoderFacts:
    """The facts of `builtin:audio-logmel`; raises `EncoderUnusable` for settings that it does not have."""
    return builtin.facts(spec, "audio", "logmel", SETTINGS.dim, _VERSION, SETTINGS)


class LogMelPreparer:
    """Samples as they are: an encoder that takes sounds of any length needs nothing done to them."""

    least = 0
    rate = SETTINGS.rate

    def prepare(self, decoded: Any) -> np.ndarray:
        """Of mono samples at `rate`, float32 (samples,)."""
        return np.ascontiguousarray(decoded, dtype=np.float32)


class LogMelEncoder:
    """Of float32 (samples,), none to an hour, unit vectors float32 (dim,); on a GPU the same within 1e-4.

    Each sound is transformed by itself: its vector does not depend on its batch in a single bit.
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
        tables = (
            np.hanning(SETTINGS.window),
            mel(SETTINGS).T,
            cosines(SETTINGS.cepstra, SETTINGS.bands).T,
            np.hanning(SETTINGS.span)[:, None],
        )
        made = (torch.tensor(t, dtype=torch.float32, device=self.device) for t in tables)
        self._window, self._mel, self._cepstra, self._span = made

    def encode(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        out = np.empty((len(inputs), self.facts.dim), dtype=np.float32)
        with torch.inference_mode():
            for at, samples in enumerate(inputs):
                out[at] = self._vector(torch.tensor(samples, device=self.device)).cpu().numpy()
        return out

    def encode_query(self, text: str) -> np.ndarray:
        raise builtin.refuse_text(MODEL, "audio")

    def _vector(self, samples: "torch.Tensor") -> "torch.Tensor":
        import torch

        power = self._power(samples)
        loud = power.mean(1).max().clamp_min(SETTINGS.silence)
        logs = torch.log(power / loud + SETTINGS.floor)
        spectrum = logs.mean(0)
        blocks = (
            self._trajectory(power, loud),
            SETTINGS.modulation_weight * self._modulation(logs),
            SETTINGS.spectrum_weight * _unit(spectrum - spectrum.mean()),
        )
        whole = torch.cat(blocks)
        vector: torch.Tensor = whole / whole.norm()
        return vector

    def _power(self, samples: "torch.Tensor") -> "torch.Tensor":
        """Of each frame in each mel band, (frames, bands); the first frame is centred on the first sample."""
        import torch

        half = SETTINGS.window // 2
        padded = torch.nn.functional.pad(samples, (half, half))
        frames = padded.unfold(0, SETTINGS.window, SETTINGS.hop) * self._window
        power: torch.Tensor = torch.fft.rfft(frames, SETTINGS.transform).abs().square() @ self._mel
        return power

    def _trajectory(self, power: "torch.Tensor", loud: "torch.Tensor") -> "torch.Tensor":
        """Of length 1 but for `presence`, (shapes · cepstra,)."""
        import torch

        noise = torch.quantile(power, SETTINGS.quiet, dim=0)
        clean = (power - SETTINGS.over * noise).clamp_min(0)
        cepstra = torch.log(clean / loud + SETTINGS.floor) @ self._cepstra
        energy = power.sum(1)
        quiet = torch.quantile(energy, SETTINGS.quiet) + SETTINGS.rise * energy.max() + SETTINGS.silence
        active = torch.log(energy / quiet + _TINY).clamp_min(0) + SETTINGS.rise
        share = active / active.sum()
        passed = share.cumsum(0) - share / 2
        order = torch.arange(SETTINGS.shapes, dtype=passed.dtype, device=passed.device)[:, None]
        shapes = torch.cos(torch.pi * order * passed) * torch.where(order == 0, 1.0, 2**0.5)
        shapes[1:] -= (shapes[1:] * share).sum(1, keepdim=True)  # so that few frames have no level in them
        whole = ((shapes * share) @ cepstra).flatten()
        whole[0] = 0  # the level
        unit = _unit(whole)
        unit[0] = SETTINGS.presence
        return unit

    def _modulation(self, logs: "torch.Tensor") -> "torch.Tensor":
        """Of length 1, or 0 where nothing fluctuates, (rates · groups,)."""
        import torch

        span, step = SETTINGS.span, SETTINGS.span // 2
        moving = (logs - logs.mean(0)).reshape(len(logs), SETTINGS.groups, -1).mean(2)
        windows = 1 + max(0, -(-(len(moving) - span) // step))
        padded = torch.nn.functional.pad(moving, (0, 0, 0, (windows - 1) * step + span - len(moving)))
        windowed = padded.unfold(0, span, step).transpose(1, 2) * self._span  # (windows, span, groups)
        power = torch.fft.rfft(windowed, dim=1).abs().square().mean(0)
        return _unit(power[1 : SETTINGS.rates + 1].sqrt().flatten())


def mel(settings: Settings) -> np.ndarray:
    """Triangles of equal width in mel, that sum to one between their centres: float64 (bands, bins)."""
    lowest, highest = (2595 * np.log10(1 + hz / 700) for hz in (settings.lowest, settings.rate / 2))
    corners = 700 * (10 ** (np.linspace(lowest, highest, settings.bands + 2) / 2595) - 1)
    hz = np.arange(settings.transform // 2 + 1) * settings.rate / settings.transform
    below, centre, above = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (hz - below) / (centre - below), (above - hz) / (above - centre)
    triangles: np.ndarray = np.minimum(rising, falling).clip(0)
    return triangles


def cosines(count: int, n: int) -> np.ndarray:
    """The first `count` rows of the orthonormal cosine transform of n points (DCT-II), float64."""
    rows = np.cos(np.pi * np.arange(count)[:, None] * (np.arange(n) + 0.5) / n) * np.sqrt(2 / n)
    rows[0] /= np.sqrt(2)
    table: np.ndarray = rows
    return table


def _unit(block: "torch.Tensor") -> "torch.Tensor":
    unit: torch.Tensor = block / (block.norm() + _FAINT)
    return unit
