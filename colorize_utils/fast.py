"""A trained network made quick to use: batch norms folded away, or all of it in 8-bit integers.

`folded` computes the same colours to rounding. `Int8Network` computes nearly the same on a CPU, through ONNX Runtime,
and needs the extra `int8`.
"""

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from colorize_utils.cache import cache_folder
from colorize_utils.data import unit
from colorize_utils.errors import DeviceError
from colorize_utils.files import written_whole
from colorize_utils.generated import generate_flowers
from colorize_utils.luminance import gray_levels
from colorize_utils.models import POOLINGS

FORMAT = 1  # part of every file's name in the cache: raise it when what is written changes
CALIBRATION = 64 * 64**2  # pixels: 64 pictures of 64×64, fewer larger ones, because all activations are held at once
PERCENTILE = 99.9  # of a layer's activations are inside its range: a few channels explode on a few pictures


def folded(network: nn.Module) -> nn.Module:
    """A copy for prediction in which each batch norm is part of the convolution before it.

    In evaluation mode a batch norm is an affine map of each channel, γ (x − μ) / √(σ² + ε) + β, which a convolution's
    weights and bias can take in. It spares the U-Net 6 % of its time (256×256, width 1, two cores, channels-last).
    """
    network = copy.deepcopy(network).eval()
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                setattr(block, name, fuse_conv_bn_eval(layer, norm, transpose=transposed))
                setattr(block, norm_name, nn.Identity())
    return network


class Int8Network(nn.Module):
    """A generator in 8-bit integers, on the CPU: gray (B, 1, H, W) → what it answers with, H and W multiples of 32.

    Weights have a scale for each output channel, activations one for each layer, from the range that they reach on
    photographs and drawn flowers (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 2; ONNX Runtime's static quantization). The last layer stays exact.

    network: the generator; size: the working size that it is calibrated at. Made at the first use of a network, which
    takes 5 to 60 seconds, and kept in `cache_folder()/int8`.

    Raises DeviceError where ONNX Runtime is not installed, or the cache cannot be written.
    """

    def __init__(self, network: nn.Module, size: int):
        super().__init__()
        try:
            import onnx  # noqa: F401
            import onnxruntime
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise DeviceError(
                f"int8 needs the package {error.name}; pip install onnx onnxruntime onnxscript, or go on without int8"
            ) from error
        network = folded(network).cpu()
        path = cache_folder() / "int8" / f"{_digest(network, size)}.onnx"
        if not path.is_file():
            try:
                with written_whole(path) as temporary:
                    _quantize(network, size, temporary)
            except OSError as error:
                raise DeviceError(
                    f"cannot keep the int8 network in {path.parent}: {error.strerror or error}; "
                    "set COLORIZE_CACHE to a folder that can be written"
                ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, gray: Tensor) -> Tensor:
        (colour,) = self._session.run(None, {"gray": gray.numpy()})
        return torch.from_numpy(colour)


def _digest(network: nn.Module, size: int) -> str:
    digest = hashlib.sha256(f"{FORMAT} {size} {network}".encode())
    for value in network.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def _quantize(network: nn.Module, size: int, path: Path) -> None:
    """Writes a folded network in 8-bit integers to `path`, as ONNX."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Calibration(CalibrationDataReader):
        def __init__(self):
            self.pictures = _calibration_pictures(size)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({"gray": picture} for picture in self.pictures), None)

    multiple = 2**POOLINGS
    shape = {0: torch.export.Dim("pictures", max=1024)}
    shape |= {axis: multiple * torch.export.Dim(name, max=1024) for axis, name in ((2, "rows"), (3, "columns"))}
    example = torch.rand(2, 1, 2 * multiple, 3 * multiple)
    with TemporaryDirectory() as folder, _silence():
        exact = Path(folder) / "exact.onnx"
        names = {"input_names": ["gray"], "output_names": ["colour"]}
        torch.onnx.export(
            network, (example,), exact, dynamo=True, dynamic_shapes=[shape], external_data=False, verbose=False, **names
        )
        convolutions = [node.name for node in onnx.load(exact).graph.node if node.op_type.startswith("Conv")]
        quantize_static(
            exact,
            path,
            Calibration(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # What is left exact: the last convolution, and the arithmetic that puts its chroma on the luminance.
            op_types_to_quantize=["Conv", "ConvTranspose", "Relu", "MaxPool", "Resize", "Concat"],
            nodes_to_exclude=convolutions[-1:],
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Exporter and quantizer talk of their own workings: in prints, warnings and the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _calibration_pictures(size: int) -> Iterator[np.ndarray]:
    """Gray pictures (1, 1, size, size) in [0, 1]: random square crops of two photographs, a quarter as many drawn
    flowers."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(colour).convert("L") for colour in load_sample_images().images]
    random = np.random.default_rng(0)
    count = max(8, CALIBRATION // size**2)
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        side = random.integers(size, min(photograph.size), endpoint=True) if size < min(photograph.size) else size
        x, y = (random.integers(0, max(1, length - side)) for length in photograph.size)
        crop = photograph.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)
        yield unit(torch.from_numpy(np.array(crop)))[None, None].numpy()
    flowers = torch.from_numpy(generate_flowers(count // 4, size)).permute(0, 3, 1, 2)  # (N, 3, size, size)
    for gray in unit(gray_levels(flowers)):
        yield gray[None].numpy()
