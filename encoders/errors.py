"""What can go wrong with an encoder or its input.

EncoderError
├── EncoderNotFound      no model where the spec points
├── EncoderUnusable      a model is there, but not one that can be loaded safely or as declared
├── BasisMismatch        a basis is given vectors of another space, for another direction or of another length
├── BasisUnfit           no basis can be fitted to these pairs, or what was read is none
└── RowError             one input cannot be used; carries the stage it failed in
    ├── Unreadable       raw media that is gone, or not what was listed any more (stage pull)
    ├── Undecodable      bytes that are no text, picture or sound (stage decode)
    ├── Unchunkable      text without a single token (stage chunk)
    └── BadVector        the encoder gave NaN, infinite, zero or wrongly shaped numbers (stage encode)
"""

from typing import ClassVar, Literal

Stage = Literal["pull", "decode", "chunk", "encode", "map"]


class EncoderError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 2


class EncoderNotFound(EncoderError):
    """The spec's `model` leads nowhere."""


class EncoderUnusable(EncoderError):
    """The model cannot be loaded safely, or is not what the configuration says it is."""


class BasisMismatch(EncoderError):
    """The basis leads from another space, in another direction, or from vectors of another length."""


class BasisUnfit(EncoderError):
    """Pairs from which no basis can be fitted, or bytes that are no whole basis."""


class RowError(EncoderError):
    """One row cannot be used: it becomes a reject with this stage, the others go on."""

    stage: ClassVar[Stage]


class Unreadable(RowError):
    """The content that was listed cannot be read any more."""

    stage = "pull"


class Undecodable(RowError):
    """The content is not what the collection is made of: text, a picture or a sound."""

    stage = "decode"


class Unchunkable(RowError):
    """The text has nothing that the encoder's tokenizer would keep."""

    stage = "chunk"


class BadVector(RowError):
    """What came out of the encoder is not a usable vector."""

    stage = "encode"
