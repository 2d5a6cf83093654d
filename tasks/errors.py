"""What can stop a run before or between its windows.

TaskError
├── SourceUnusable      the source cannot be pulled as configured
├── ResourcesUnfit      more actors or GPUs are asked for than Ray has
├── BadRows             rows without an id, or two with the same: nothing was done
├── Refused             would delete too much; needs --yes
├── EncoderChanged      encoder or chunking differ from those of the live release
├── NothingThere        no such collection, or nothing in it yet
├── ProbeUnreadable     a stored probe is not what this version of Evervec writes
└── RunFailed           the stream of the encoders broke off, or no row was usable
"""


class TaskError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 1


class SourceUnusable(TaskError):
    """The source of a collection is not there, or not what the configuration says."""

    exit_code = 2


class ResourcesUnfit(TaskError):
    """The resources of a collection cannot be had here; nothing would ever be scheduled."""

    exit_code = 2


class BadRows(TaskError):
    """Rows of one pull cannot be told apart; the message names them. Nothing was changed."""


class Refused(TaskError):
    """The pull would delete more than is safe to conclude from it. Nothing was deleted."""

    exit_code = 3


class EncoderChanged(TaskError):
    """Going on would mix vectors of two spaces in one collection."""

    exit_code = 2


class NothingThere(TaskError):
    """The collection is unknown or was never ingested."""

    exit_code = 2


class ProbeUnreadable(TaskError):
    """A stored probe has other keys or values than this version writes; measuring again replaces it."""

    exit_code = 2

    def __init__(self, key: str, found: str, document: object) -> None:
        self.key = key
        known = document if isinstance(document, dict) else {}
        again = (
            f"evervec probe {known.get('collection', 'COLLECTION')} --to {known.get('to_encoder', 'ENCODER')}"
        )
        super().__init__(
            f"the stored probe cannot be read at {key!r} ({found}): another version of Evervec wrote it, or "
            f"it was edited; measure again with `{again}`"
        )


class RunFailed(TaskError):
    """The run ended early or kept nothing; windows committed before stay."""
