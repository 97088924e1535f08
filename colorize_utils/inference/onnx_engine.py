"""ONNX Runtime as an engine: a network that `python -m colorize_utils export` wrote, on the CPU, without PyTorch."""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from colorize_utils.errors import CheckpointError, PackageError
from colorize_utils.generator_registry import HINT_CHANNELS, PROBABILITIES, UNFAMILIARITY
from colorize_utils.machine import usable_cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = 1  # of exported files: raise it when inputs, outputs or metadata change
# The inputs: the second where the network takes hints, the third where it can tell what it does not know. ONNX Runtime
# computes all outputs whichever are asked for; of no pictures, a batch of 0, that takes no time.
GRAY, HINTS, JUDGED = "gray", "hints", "judged"


@dataclass(frozen=True)
class About:
    """What an exported file says about itself: its metadata, each value as text.

    Attributes:
        name: What tables, errors and marks call the network.
        size: Its working size, pixels a side of a square.
        judged_side: The side of the square that "unfamiliarity" is meant for; 0 where there is none.
        source_sha256: The hash of the checkpoint that it was exported from, in hexadecimal digits.
        licence: The terms under which it may be used.
        palette: The grid of the distribution's colours, "rows×columns, step"; "" where there is none.
        styles: The styles whose chroma it has, separated by blanks.
        format: `FORMAT`.
    """

    name: str
    size: int
    judged_side: int = 0
    source_sha256: str = ""
    licence: str = ""
    palette: str = ""
    styles: str = ""
    format: int = FORMAT

    @classmethod
    def of(cls, metadata: Mapping[str, str], name: str) -> "About":
        """Reads the metadata of a file.

        Args:
            metadata: The metadata.
            name: What messages call the file.

        Returns:
            The metadata, checked.

        Raises:
            CheckpointError: It is not this project's, or of another format.
        """
        try:
            known = {key: metadata[key] for key in cls.__dataclass_fields__}
            if int(known["format"]) != FORMAT:
                raise CheckpointError(
                    f"{name} has format {known['format']}, this version reads {FORMAT}; export the checkpoint again"
                )
            sides = {key: int(known[key]) for key in ("size", "judged_side", "format")}
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{name} is no network that `python -m colorize_utils export` wrote; export the checkpoint anew"
            ) from error
        return cls(**(known | sides))  # type: ignore[arg-type]


class OnnxEngine:
    """An exported file, loaded; `engines.Engine` says what it offers.

    Args:
        path: The file.

    Attributes:
        about: What the file says about itself.

    Raises:
        CheckpointError: The file is damaged, or is none that `export` wrote.
        PackageError: ONNX Runtime is not installed.
    """

    device = "cpu"
    precision = "fp32"
    can_be_shared = True

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise PackageError(f"{path.name} needs ONNX Runtime: pip install onnxruntime") from error
        with contextlib.suppress(AttributeError):
            onnxruntime.disable_telemetry_events()  # which the builds for Windows have
        onnxruntime.set_default_logger_severity(3)  # errors
        self._path = path
        self._lock = threading.Lock()
        self._workers = 0
        self._sessions: dict[int, InferenceSession] = {}  # by the number of threads
        session = self._session()
        self.about = About.of(session.get_modelmeta().custom_metadata_map, path.name)
        outputs = [output.name for output in session.get_outputs()]
        self.size = self.about.size
        self.judged_side = self.about.judged_side
        self.has_distribution = PROBABILITIES in outputs
        self.takes_hints = HINTS in [given.name for given in session.get_inputs()]

    def _session(self) -> "InferenceSession":
        """The session with as many threads as each worker has cores; there is one for each such number."""
        import onnxruntime

        with self._lock:
            threads = max(1, _threads() // max(1, self._workers))
            if threads not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                # Memory is the C library's: what ONNX Runtime keeps of its own grew with every size of a picture.
                options.enable_cpu_mem_arena = options.enable_mem_pattern = False
                # Idle threads sleep: those that spin take the cores from what reads, merges and writes pictures.
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
                try:
                    session = onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
                except Exception as error:  # of ONNX Runtime's own types, all of which mean that it is no such file
                    reason = " ".join(str(error).split())[:160]
                    raise CheckpointError(
                        f"{self._path.name} is damaged or no ONNX file ({reason}); get it again"
                    ) from error
                self._sessions[threads] = session
            return self._sessions[threads]

    def predict(self, wanted: Sequence[str], gray: np.ndarray, hints: np.ndarray | None = None) -> list[np.ndarray]:
        """As `Engine.predict`."""
        asked = {GRAY: gray}
        if self.takes_hints:
            none = np.zeros((len(gray), HINT_CHANNELS, *gray.shape[2:]), np.float32)
            asked[HINTS] = none if hints is None else hints
        if self.judged_side:
            asked[JUDGED] = np.zeros((0, 1, self.judged_side, self.judged_side), np.float32)
        found: list[np.ndarray] = self._session().run(list(wanted), asked)
        return found

    def unfamiliarity(self, judged: np.ndarray) -> float:
        """As `Engine.unfamiliarity`."""
        none = np.zeros((0, 1, self.size, self.size), np.float32)
        asked = {GRAY: none, JUDGED: judged}
        if self.takes_hints:
            asked[HINTS] = none.repeat(HINT_CHANNELS, axis=1)
        (found,) = self._session().run([UNFAMILIARITY], asked)
        return float(found[0])

    def share(self, workers: int) -> None:
        """As `Engine.share`."""
        with self._lock:
            self._workers += workers

    def unshare(self, workers: int) -> None:
        """As `Engine.unshare`."""
        with self._lock:
            self._workers -= workers


def _threads() -> int:
    """As many threads as there are cores, or as the environment allows: the variable is PyTorch's, too."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else usable_cores()
