"""Quantization: a generator in 8-bit integers on the CPU, through ONNX Runtime; needs the extra `int8`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from onnxruntime import InferenceSession
    from onnxruntime.quantization.calibrate import TensorsData

FORMAT = 3  # part of every file's name in the cache: raise it when what is written changes
# Pixels to calibrate with: 64 pictures of 64×64, and fewer larger ones, because all activations are held at once.
CALIBRATION = 64 * 64**2
# Percent of a layer's activations that its range covers: on a few pictures a few channels have extreme values.
PERCENTILE = 99.9
# How many times wider a layer's range may become, to be that of what it is concatenated with: it loses a bit at most.
MOST_WIDENED = 2
# Not quantized: the last convolution, and the arithmetic that puts its chroma on the luminance.
_QUANTIZED = ["Conv", "ConvTranspose", "Relu", "MaxPool", "Resize", "Concat"]


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
        _even_out(model, Path(folder) / "probe.onnx", size)
        last = _last_as_product(model.graph)
        onnx.save(model, exact)

        calibrator = PercentileCalibrater(exact, _QUANTIZED, str(augmented), percentile=PERCENTILE)
        calibrator.augment_graph()
        calibrator.infer_session = _session(augmented, optimized=False)  # its own would take every core, and spin on it
        calibrator.collect_data(_Calibration([given.name for given in model.graph.input], size))
        ranges = calibrator.compute_data()
        _join_ranges(model.graph, ranges)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=[last],
            op_types_to_quantize=_QUANTIZED,
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(path)


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


def _even_out(model: "ModelProto", path: Path, size: int) -> None:
    """Scales the channels that the last convolution takes to one range, and its weights the other way.

    The colour is a sum of these channels, all of which get one scale; where the ranges of some are far wider than those
    of others, which is so in trained networks, that would leave the others few of the 256 steps.

    Args:
        model: The exact network; it is changed, and computes what it did.
        path: A file to write on the way.
        size: As in `Int8Network`.

    Source:
        Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1, with
        ranges of activations in place of those of weights.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    before = {output: node for node in graph.node for output in node.output}
    last = [node for node in graph.node if node.op_type.startswith("Conv")][-1]
    features = last.input[0]
    relu = before.get(features)
    layer = before.get(relu.input[0]) if relu is not None and relu.op_type == "Relu" else None
    if layer is None or {layer.op_type, last.op_type} != {"Conv"}:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_empty_tensor_value_info(features))
    onnx.save(probe, path)
    session, pictures, found = _session(path), _Calibration([given.name for given in graph.input], size), []
    while (asked := pictures.get_next()) is not None:
        found.append(session.run([features], asked)[0])  # (1, C, H, W)
    ranges = np.percentile(np.concatenate(found), PERCENTILE, axis=(0, 2, 3)).astype(np.float32)
    ranges[ranges == 0] = 1

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weight, *bias = layer.input[1:]  # a bias of zeros is left out
    factors = {weight: 1 / ranges[:, None, None, None], last.input[1]: ranges[:, None, None]}  # (C_out, C_in, K, K)
    factors |= dict.fromkeys(bias, 1 / ranges)
    for name, factor in factors.items():
        tensors[name].CopyFrom(numpy_helper.from_array(factor * numpy_helper.to_array(tensors[name]), name))


def _last_as_product(graph: "GraphProto") -> str:
    """Writes the last convolution, if its kernel is of one pixel, as a product of matrices.

    The quantized layers before it give channels last, as a product takes them; a convolution would have them put in
    another order.

    Args:
        graph: The exact network; it is changed.

    Returns:
        The name of the node that now computes the last convolution.
    """
    from onnx import helper, numpy_helper

    place, last = [(place, node) for place, node in enumerate(graph.node) if node.op_type.startswith("Conv")][-1]
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    features, weight, *bias = last.input
    kernel = numpy_helper.to_array(tensors[weight])  # (C_out, C_in, K, K)
    if kernel.shape[2:] != (1, 1):
        return str(last.name)
    (output,) = last.output
    matrix, turned, product, colour = (f"{output}_{name}" for name in ("matrix", "turned", "product", "colour"))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel[:, :, 0, 0].T), matrix))
    graph.initializer.remove(tensors[weight])
    del graph.node[place]
    for node in (
        helper.make_node("Transpose", [colour], [output], perm=[0, 3, 1, 2]),
        helper.make_node("Sum", [product, *bias], [colour]),
        helper.make_node("MatMul", [turned, matrix], [product], name := f"{output}_product"),
        helper.make_node("Transpose", [features], [turned], perm=[0, 2, 3, 1]),
    ):
        graph.node.insert(place, node)
    return name


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
