"""The errors of this package, each one sentence to a person: what, where, what next.

They share a base class, so that a terminal or a widget can show them as one line, and any other exception, which is a
bug, with its traceback.
"""


class ColorizeError(Exception):
    """Something that the person at the keyboard can mend; the base of the others."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the sentence, without the traceback."""
        return [f"{type(self).__name__}: {self}"]


class PictureError(ColorizeError):
    """A picture that cannot be read, or cannot be written."""


class DataError(ColorizeError):
    """Training or evaluation pictures that are missing, too few or seen before, or a cache that cannot be written."""


class CheckpointError(ColorizeError):
    """A checkpoint that cannot be found or downloaded, is no checkpoint, or does not fit the network."""


class HintError(ColorizeError, ValueError):
    """A hint is no hint, lies off the picture, or is given to a network that takes none."""


class TrainingError(ColorizeError):
    """A training run that cannot go on: diverged, out of memory, or resumed with other settings."""


class DeviceError(ColorizeError):
    """A device that this machine does not have."""


class PackageError(ColorizeError):
    """A package that this needs is not installed."""


class ClusterError(ColorizeError):
    """An archive that cannot be worked on: Ray or a filesystem is not there, or it was begun with other settings."""
