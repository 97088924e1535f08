"""Quantization: a generator in 8-bit integers on the CPU, through ONNX Runtime; needs the extra `int8`."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from colorize_utils.colour import gray_levels, unit
from colorize_utils.data.hints import with_hints
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DeviceError
from colorize_utils.files import atomic_write, cache_folder
from colorize_utils.generator_registry import HINT_CHANNELS
from colorize_utils.inference.engine import export_onnx, require_packages, silence
from colorize_utils.models import fuse_batch_norms

FORMAT = 2  # part of every file's name in the cache: raise it when what is written changes
# Pixels to calibrate with: 64 pictures of 64×64, and fewer larger ones, because all activations are held at once.
CALIBRATION = 64 * 64**2
# Percent of a layer's activations that its range covers: on a few pictures a few channels have extreme values.
PERCENTILE = 99.9


class Int8Network(nn.Module):
    """A generator in 8-bit integers, on the CPU.

    Weights have a scale for each output channel, activations one for each layer, from the range that they reach on
    photographs and synthetic flowers (ONNX Runtime's static quantization). The last convolution is not quantized.

    The quantized network is made when a network is first used, which takes 5 to 60 seconds, and kept in
    `cache_folder()/int8`.

    Args:
        network: The generator, gray (B, 1, H, W) in [0, 1] → its output.
        size: The working size that it is calibrated at, in pixels a side.

    Raises:
        DeviceError: ONNX Runtime is not installed, or the cache cannot be written.

    Source:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", section 2.
    """

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        require_packages("int8", "onnxruntime")
        import onnxruntime

        network = fuse_batch_norms(network).cpu()
        path = cache_folder() / "int8" / f"{_digest(network, size)}.onnx"
        if not path.is_file():
            try:
                with atomic_write(path) as temporary:
                    _quantize(network, size, temporary)
            except OSError as error:
                raise DeviceError(
                    f"cannot keep the int8 network in {path.parent}: {error.strerror or error}; "
                    "set COLORIZE_CACHE to a folder that can be written"
                ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, gray: Tensor, hints: Tensor | None = None) -> Tensor:
        """Gray (B, 1, H, W) in [0, 1], H and W multiples of 32 → the generator's output, approximately.

        Hints (B, 3, H, W) are for a generator that takes them (multiscale.py).
        """
        asked = {"gray": gray.numpy()}
        if len(self._session.get_inputs()) > 1:
            if hints is None:
                hints = gray.new_zeros(len(gray), HINT_CHANNELS, *gray.shape[-2:])
            asked["hints"] = hints.numpy()
        (colour,) = self._session.run(None, asked)
        return torch.from_numpy(colour)


def _digest(network: nn.Module, size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size} {network}".encode())
    for value in network.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def _quantize(network: nn.Module, size: int, path: Path) -> None:
    """Quantizes a network whose batch norms are fused, and writes it to `path` as ONNX."""
    require_packages("int8", "onnx", "onnxscript")
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    class Calibration:  # ONNX Runtime takes whatever has `get_next` for a CalibrationDataReader
        def __init__(self) -> None:
            self.pictures = _calibration_pictures(size)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next((dict(zip(names, pair, strict=False)) for pair in self.pictures), None)

    with TemporaryDirectory() as folder, silence(), _sessions_with_torchs_threads():
        exact = Path(folder) / "exact.onnx"
        export_onnx(network, exact)
        names = [tensor.name for tensor in onnx.load(exact).graph.input]
        convolutions = [node.name for node in onnx.load(exact).graph.node if node.op_type.startswith("Conv")]
        quantize_static(
            exact,
            path,
            Calibration(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Not quantized: the last convolution, and the arithmetic that puts its chroma on the luminance.
            op_types_to_quantize=["Conv", "ConvTranspose", "Relu", "MaxPool", "Resize", "Concat"],
            nodes_to_exclude=convolutions[-1:],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )


@contextlib.contextmanager
def _sessions_with_torchs_threads() -> Iterator[None]:
    """Within the block, ONNX Runtime's default session options ask for as many threads as torch has.

    Without it, a session takes every core and spins on it. The quantizer's own session, with which it calibrates, is
    made with the default options, and the quantizer takes no others.
    """
    import onnxruntime

    default = onnxruntime.SessionOptions

    def options() -> onnxruntime.SessionOptions:
        made = default()
        made.intra_op_num_threads = torch.get_num_threads()
        return made

    onnxruntime.SessionOptions = options
    try:
        yield
    finally:
        onnxruntime.SessionOptions = default


def _calibration_pictures(size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gray pictures (1, 1, size, size) in [0, 1] to calibrate with, and hints (1, 3, size, size).

    They are random square crops of two photographs, and a quarter as many synthetic flowers.
    """
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(colour) for colour in load_sample_images().images]
    rng = np.random.default_rng(0)
    count = max(8, CALIBRATION // size**2)
    crops = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = int(rng.integers(size, min(photograph.size), endpoint=True)) if size < min(photograph.size) else size
        x, y = (int(rng.integers(0, max(1, length - side))) for length in photograph.size)
        crop = photograph.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)
        crops.append(np.array(crop))
    levels = torch.from_numpy(np.concatenate([np.stack(crops), synthetic_flowers(count // 4, size)])).permute(
        0, 3, 1, 2
    )
    grays = unit(gray_levels(levels))
    _, hints = with_hints(unit(levels), torch.Generator().manual_seed(0))
    for gray, own in zip(grays, hints, strict=True):
        yield gray[None].numpy(), own[None].numpy()
