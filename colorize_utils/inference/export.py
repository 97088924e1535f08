"""A checkpoint as a file for ONNX Runtime: the whole of prediction (prediction.py), with weights of 16 bits.

The file is what the light installation colorizes with (onnx_engine.py), and what other programs can, which know only
ONNX: forty lines with Pillow are in docs/export.md. After writing it is compared with PyTorch on real pictures.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from colorize_utils import palette
from colorize_utils.checkpoints import LoadedGenerator
from colorize_utils.errors import CheckpointError, PackageError
from colorize_utils.files import atomic_write
from colorize_utils.generator_registry import HINT_CHANNELS, STYLES
from colorize_utils.inference.colorizer import Colorizer
from colorize_utils.inference.engine import require_packages, silence
from colorize_utils.inference.hints import Hint
from colorize_utils.inference.onnx_engine import GRAY, HINTS, JUDGED, About, OnnxEngine
from colorize_utils.inference.prediction import Prediction

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

MOST_PICTURES = 1024  # in a batch
MOST_SIDE = 8192  # pixels a side
MOST_DIFFERENCE = 1  # levels of 255 by which a picture may differ from PyTorch's: where rounding goes the other way
_LEAST = 16  # numbers that a weight has at least to be kept in 16 bits and shared: the rest is small


@dataclass(frozen=True)
class Comparison:
    """How far two engines' pictures are from each other.

    Attributes:
        pictures: How many photographs were compared, in every style, and with a hint where the network takes hints.
        levels: The largest difference of a channel of a pixel, in levels of 255.
        moved: The share of all pixels that differ at all.
    """

    pictures: int
    levels: int
    moved: float


def export(loaded: LoadedGenerator, path: Path, licence: str = "not stated", half: bool = True) -> None:
    """Writes a generator as a file for ONNX Runtime.

    Inputs, float32: `gray` (B, 1, H, W) in [0, 1], even sides; `hints` (B, 3, H, W) where the network takes them; and
    `judged` (N, 1, S, S) where it can tell what it does not know, N and B perhaps 0. Outputs: those of `Prediction`.

    Args:
        loaded: The generator.
        path: The file to write or replace.
        licence: The terms under which it may be used.
        half: Whether weights are kept in 16 bits, rounded where they are not already of these; computed in 32.

    Raises:
        DeviceError: A package is not installed that exporting needs.
        PackageError: This version of PyTorch cannot export the network.
        OSError: The file cannot be written.
    """
    require_packages("export", "onnx", "onnxscript", "onnxruntime")
    import onnx
    import onnxscript.optimizer

    prediction = Prediction(loaded.predictor, loaded.size).eval()
    with TemporaryDirectory() as folder, silence():
        raw = Path(folder, "raw.onnx")
        _write(prediction, raw)
        model = onnx.load(raw)
        onnxscript.optimizer.fold_constants(model)
        onnxscript.optimizer.remove_unused_nodes(model)
    _without_traces(model)
    _with_colours_last(model.graph)
    _with_shared_weights(model.graph, half)
    about = About(
        name=loaded.name,
        size=loaded.size,
        judged_side=prediction.judged_side,
        source_sha256=loaded.sha256,
        licence=licence,
        palette=palette.DESCRIPTION if prediction.has_distribution else "",
        styles=" ".join(name for name in prediction.outputs if name in STYLES),
    )
    onnx.helper.set_model_props(model, {key: str(value) for key, value in asdict(about).items()})
    onnx.checker.check_model(model)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


def _write(prediction: Prediction, path: Path) -> None:
    """Writes the network as PyTorch exports it: weights in 32 bits, and once for each working size."""
    pictures, rows, columns = (
        torch.export.Dim(name, max=most)
        for name, most in (("pictures", MOST_PICTURES), ("rows", MOST_SIDE // 2), ("columns", MOST_SIDE // 2))
    )
    shape = {0: pictures, 2: 2 * rows, 3: 2 * columns}
    # An example that is no square, has more than one picture, and sides that are no multiples of what is pooled: what
    # holds for it alone must not become part of the graph.
    example = {GRAY: torch.rand(2, 1, 150, 210)}
    shapes = {GRAY: shape}
    if prediction.takes_hints:
        example[HINTS] = torch.rand(2, HINT_CHANNELS, 150, 210)
        shapes[HINTS] = shape
    if prediction.judged_side:
        example[JUDGED] = torch.rand(3, 1, prediction.judged_side, prediction.judged_side)
        shapes[JUDGED] = {0: torch.export.Dim("judged_pictures", max=MOST_PICTURES)}
    try:
        torch.onnx.export(
            prediction,
            kwargs=example,
            f=path,
            input_names=list(example),
            output_names=list(prediction.outputs),
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            optimize=False,  # which would fuse batch norms, and so double the weights
            verbose=False,
        )
    except Exception as error:  # of its own types; the exporter learns from one version to the next
        reason = " ".join(str(error).split())[:160]
        raise PackageError(f"torch {torch.__version__} cannot export this network ({reason}); 2.14 can") from error


def _without_traces(model: "ModelProto") -> None:
    """Takes out what the exporter notes for debugging: traces through files of this machine, and guessed shapes."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def _with_colours_last(graph: "GraphProto") -> None:
    """Puts the colours' dimension last where a softmax or a mean goes over it: that takes a fraction of the time."""
    from onnx import helper

    nodes = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        (output,) = node.output if len(node.output) == 1 else ("",)
        before, after = f"{output}_colours_last", f"{output}_of_colours_last"
        if node.op_type == "Softmax" and attributes.get("axis") == 1:
            # As a matrix, because ONNX Runtime would take the two transpositions back.
            flat = [f"{before}_{name}" for name in ("flat", "shape", "softmax")]
            inner = [
                helper.make_node("Flatten", [before], [flat[0]], axis=3),
                helper.make_node("Shape", [before], [flat[1]]),
                helper.make_node("Softmax", [flat[0]], [flat[2]], axis=1),
                helper.make_node("Reshape", [flat[2], flat[1]], [after], allowzero=1),
            ]
        elif node.op_type == "Einsum" and attributes.get("equation") == b"bqhw,qn->bnhw":
            inner = [helper.make_node("MatMul", [before, node.input[1]], [after])]
        else:
            nodes.append(node)
            continue
        nodes += [
            helper.make_node("Transpose", [node.input[0]], [before], perm=[0, 2, 3, 1]),
            *inner,
            helper.make_node("Transpose", [after], [output], perm=[0, 3, 1, 2]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _with_shared_weights(graph: "GraphProto", half: bool) -> None:
    """Keeps equal weights once, as those of the working sizes are, and in 16 bits, which a first node makes 32 of.

    Batch norms stay apart from convolutions: fused, the weights of each size would be others. ONNX Runtime folds and
    fuses both when it loads the file.
    """
    from onnx import TensorProto, helper, numpy_helper

    kept: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    initializers, casts = [], []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or array.size < _LEAST:
            initializers.append(tensor)
            continue
        with np.errstate(over="ignore"):
            short = array.astype(np.float16)
        # Rounded are the kernels; what is added and normalized with is little, and stays as it is.
        fits = np.isfinite(short).all() and (array.ndim > 1 or np.array_equal(short, array))
        stored = short if half and fits else array
        key = (stored.dtype.str, stored.shape, stored.tobytes())
        if key in kept:
            renamed[tensor.name] = kept[key]
            continue
        kept[key] = tensor.name
        if stored.dtype == np.float16:
            initializers.append(numpy_helper.from_array(stored, f"{tensor.name}_16"))
            casts.append(helper.make_node("Cast", [f"{tensor.name}_16"], [tensor.name], to=TensorProto.FLOAT))
        else:
            initializers.append(tensor)
    nodes = list(graph.node)
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend([*casts, *nodes])


def compare(exact: Colorizer, other: Colorizer, grays: Iterable[np.ndarray]) -> Comparison:
    """Colorizes photographs with two engines, and compares the pictures.

    Args:
        exact: One colorizer.
        other: The other, of the same network.
        grays: Gray photographs, (H, W) uint8.

    Returns:
        The differences.

    Raises:
        CheckpointError: The luminance of a picture is not that of its photograph.
    """
    count, levels, moved, pixels = 0, 0, 0, 0
    for gray in grays:
        count += 1
        height, width = gray.shape
        for style, hints in _ways(exact, height, width):
            one, two = (colorizer.colorize(gray, style=style, hints=hints) for colorizer in (exact, other))
            if not np.array_equal(np.asarray(two.convert("L")), gray):
                raise CheckpointError(f"{other.name} does not keep a photograph's luminance; this is a bug")
            difference = np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16)).max(axis=2)
            levels = max(levels, int(difference.max()))
            moved += int((difference > 0).sum())
            pixels += gray.size
    return Comparison(count, levels, moved / max(1, pixels))


def _ways(colorizer: Colorizer, height: int, width: int) -> Iterator[tuple[str, Sequence[Hint]]]:
    for style in colorizer.styles:
        yield style, ()
    if colorizer.takes_hints:
        yield colorizer.default_style, [Hint(width // 3, height // 2, (200, 60, 140), max(1.0, width / 40))]


def verify_export(loaded: LoadedGenerator, path: Path, grays: Iterable[np.ndarray], name: str) -> Comparison:
    """Compares an exported file with the network that it was made of, computed by PyTorch in fp32 on the CPU.

    Args:
        loaded: The network.
        path: The file.
        grays: Gray photographs, (H, W) uint8.
        name: What messages call the file.

    Returns:
        The differences.

    Raises:
        CheckpointError: A picture differs by more than `MOST_DIFFERENCE`.
    """
    exact = Colorizer(loaded.predictor, loaded.size, loaded.name, "cpu", precision="fp32")
    engine = OnnxEngine(path)
    found = compare(exact, Colorizer(engine, engine.size, name), grays)
    if found.levels > MOST_DIFFERENCE:
        raise CheckpointError(
            f"{name} gives other pictures than {loaded.name}, by up to {found.levels} levels of 255; "
            "--exact keeps its weights as they are"
        )
    return found
