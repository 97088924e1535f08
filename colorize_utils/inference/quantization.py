"""Quantization: a generator in 8-bit integers on the CPU, through ONNX Runtime; needs the extra `int8`."""

import copy
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from colorize_utils.colour import gray_levels, unit
from colorize_utils.data.hints import with_hints
from colorize_utils.data.synthetic import synthetic_flowers
from colorize_utils.errors import DeviceError
from colorize_utils.files import atomic_write, cache_folder
from colorize_utils.generator_registry import HINT_CHANNELS
from colorize_utils.inference.engine import export_onnx, require_packages, silence
from colorize_utils.models import fuse_batch_norms, predicts_distribution

if TYPE_CHECKING:
    from onnx import GraphProto
    from onnxruntime import InferenceSession
    from onnxruntime.quantization.calibrate import TensorsData

FORMAT = 3  # part of every file's name in the cache: raise it when what is written changes
# Pixels to calibrate with: 64 pictures of 64×64, and fewer larger ones, because all activations are held at once.
CALIBRATION = 64 * 64**2
# Percent of a layer's activations that its range covers: on a few pictures a few channels have extreme values.
PERCENTILE = 99.9
# How many times wider a layer's range may become, to be that of what it is concatenated with: it loses a bit at most.
MOST_WIDENED = 2
# The last convolution stays exact; so do one or two before it where colours would otherwise be less than this PSNR, in
# dB, from the exact ones. Trained networks may subtract large numbers from each other there.
LEAST_PSNR = 45.0
MOST_EXACT = 3
# Not quantized either: the arithmetic that puts its chroma on the luminance.
_QUANTIZED = ["Conv", "ConvTranspose", "Relu", "MaxPool", "Resize", "Concat"]


class Int8Network(nn.Module):
    """A generator in 8-bit integers, on the CPU.

    Weights have a scale for each output channel, activations one for each layer, from the range that they reach on
    photographs and synthetic flowers (ONNX Runtime's static quantization). The last convolution stays exact; up
    to `MOST_EXACT` do, one after the other, until colours reach `LEAST_PSNR`.

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
        self._session = _session(path)

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
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import PercentileCalibrater

    with TemporaryDirectory() as folder, silence():
        exact, augmented = Path(folder) / "exact.onnx", Path(folder) / "augmented.onnx"
        export_onnx(network, exact)
        model = onnx.load(exact)
        *convolutions, last = [node.name for node in model.graph.node if node.op_type.startswith("Conv")]
        convolutions.append(_last_as_product(model.graph, last))
        onnx.save(model, exact)

        calibrator = PercentileCalibrater(exact, _QUANTIZED, str(augmented), percentile=PERCENTILE)
        calibrator.augment_graph()
        calibrator.infer_session = _session(augmented, optimized=False)  # its own would take every core, and spin on it
        calibrator.collect_data(_Calibration([given.name for given in model.graph.input], size))
        ranges = calibrator.compute_data()
        _join_ranges(model.graph, ranges)
        for count in range(1, 1 + MOST_EXACT):
            quantizer = QDQQuantizer(
                copy.deepcopy(model),
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=convolutions[-count:],
                op_types_to_quantize=_QUANTIZED,
                extra_options={},
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(path)
            if predicts_distribution(network) or _nearness(network, path, size) >= LEAST_PSNR:
                return


@torch.inference_mode()
def _nearness(network: nn.Module, path: Path, size: int) -> float:
    """PSNR in dB of the colours of a quantized network, beside the exact ones, on what it was calibrated with."""
    session, errors = _session(path), []
    for gray, _ in _calibration_pictures(size):
        exact = network(torch.from_numpy(gray)).clamp(0, 1)
        (quick,) = session.run(None, {"gray": gray})
        errors.append(F.mse_loss(torch.from_numpy(quick).clamp(0, 1), exact).item())
    return 10 * math.log10(1 / max(float(np.mean(errors)), 1e-12))


def _session(path: Path, optimized: bool = True) -> "InferenceSession":
    """A session with as many threads as torch has, which do not spin when nothing is computed.

    Others would keep the cores from torch, which computes what is around the network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _last_as_product(graph: "GraphProto", name: str) -> str:
    """Writes the last convolution, if its kernel is of one pixel, as a product of matrices.

    The quantized layers before it give channels last, as a product takes them; a convolution would have them put in
    another order.

    Args:
        graph: The exact network; it is changed.
        name: The name of the convolution.

    Returns:
        The name of the node that now computes the last convolution.
    """
    from onnx import helper, numpy_helper

    place, last = next((place, node) for place, node in enumerate(graph.node) if node.name == name)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    features, weight, *bias = last.input
    kernel = numpy_helper.to_array(tensors[weight])  # (C_out, C_in, K, K)
    if kernel.shape[2:] != (1, 1):
        return name
    (output,) = last.output
    matrix, turned, product, colour = (f"{output}_{name}" for name in ("matrix", "turned", "product", "colour"))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel[:, :, 0, 0].T), matrix))
    graph.initializer.remove(tensors[weight])
    del graph.node[place]
    for node in (
        helper.make_node("Transpose", [colour], [output], perm=[0, 3, 1, 2]),
        helper.make_node("Sum", [product, *bias], [colour]),
        helper.make_node("MatMul", [turned, matrix], [product], product),
        helper.make_node("Transpose", [features], [turned], perm=[0, 2, 3, 1]),
    ):
        graph.node.insert(place, node)
    return product


def _join_ranges(graph: "GraphProto", ranges: "TensorsData") -> None:
    """Gives what is concatenated one range, where that costs little: it is then copied rather than scaled.

    Args:
        graph: The exact network.
        ranges: The range of each of its tensors; they are changed.
    """
    before = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Concat" or node.output[0] not in ranges:  # those without a range join shapes
            continue
        inputs = []
        for name in node.input:
            while name in before and before[name].op_type in ("Resize", "MaxPool"):  # they keep their input's range
                name = before[name].input[0]
            inputs.append(ranges[name])
        if any(data.lowest < 0 for data in inputs):  # without a ReLU before it; ranges with one have to begin at 0
            continue
        highest = max(data.highest for data in inputs)
        for data in (ranges[node.output[0]], *inputs):
            if highest <= MOST_WIDENED * data.highest:
                data.highest = highest


class _Calibration:
    """What ONNX Runtime takes for a CalibrationDataReader: pictures for the inputs of these names."""

    def __init__(self, names: list[str], size: int):
        self._names = names
        self._pictures = _calibration_pictures(size)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next((dict(zip(self._names, pair, strict=False)) for pair in self._pictures), None)


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
