"""The errors of this package, each one sentence to a person: what, where, what next.

They share one base, so that a terminal or a widget can show every one of them on a line, and a bug still as a trace.
"""


class ColorizeError(Exception):
    """Something that the person at the keyboard can mend."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the sentence, without a trace of the package's insides."""
        return [f"{type(self).__name__}: {self}"]


class PictureError(ColorizeError):
    """A picture that cannot be read, or a place it cannot be written to."""


class DataError(ColorizeError):
    """Training or evaluation pictures that are missing, or a cache that cannot be kept."""


class CheckpointError(ColorizeError):
    """A checkpoint that cannot be had, is not what it should be, or does not fit the network."""


class TrainingError(ColorizeError):
    """A training run that cannot go on: diverged, out of memory, or resumed with other settings."""


class DeviceError(ColorizeError):
    """A device that this machine does not have."""
