"""What each layer of an ncnn network stores, in the file's order.

    Convolution*, InnerProduct …        weights as torch's, bias, scales of 8-bit weights, of the input, of the output
    Deconvolution*                      weights are outputs × inputs × kernel (torch: inputs × outputs × kernel)
    DeconvolutionDepthWise*             groups × outputs / groups × inputs / groups × kernel (torch: inputs × …)
    Gemm                                A, B, C: of a linear layer B is the weight, C the bias
    BatchNorm                           scales, means, variances, biases
    LSTM  GRU  RNN                      for each direction: weights of the input; biases, of both sums; weights of the
                                        state. Gates: i f o g (torch: i f g o), and r z n as torch has them
    MultiHeadAttention                  weights and biases of q, k, v and the output, then scales
    MemoryData                          an array

An array has a flag before it that says how it is encoded (`weights`), but for biases, scales and what norms store,
which are bare F32. Kernels are depth × height × width. A layer with dynamic weights stores nothing.

Source: ncnn/src/layer/*.cpp (`load_param`, `load_model`); all that have a `load_model` are here.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.ncnn.param import Layer, bad
from ckptconv.formats.ncnn.slots import INVERSE_SCALE, Shape, Slot, View, flagged, plain, shares

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def stored_by(layer: Layer) -> list[Slot]:
    """What a layer stores; nothing if its type is unknown. Raises CorruptFileError, UnsupportedError."""
    return list(KINDS[layer.type](layer)) if layer.type in KINDS else []


_KERNEL = {1: ((1, None),), 2: ((11, 1), (1, None)), 3: ((21, 1), (11, 1), (1, None))}
"""The options with the sizes of kernels, and the options with their defaults, by the number of dimensions."""


def _kernel(layer: Layer, dimensions: int) -> Shape:
    width = layer.count(1)
    return tuple(layer.count(key, 0 if other is None else width) for key, other in _KERNEL[dimensions])


def _convolution(dimensions: int, *, dynamic: int | None, scales: bool = False) -> Callable[[Layer], Iterable[Slot]]:
    """A convolution; `dynamic`: the option that says that it stores nothing; `scales`: it may have 8-bit weights."""

    def stored(layer: Layer) -> Iterable[Slot]:
        if dynamic is not None and layer.number(dynamic, 0):
            return
        outputs, kernel = layer.count(0), _kernel(layer, dimensions)
        yield flagged("weight", outputs, shares(layer, 6, outputs, *kernel), *kernel)
        if layer.number(5, 0):
            yield plain("bias", outputs)
        if scales:
            yield from _scales(layer, outputs)

    return stored


def _scales(layer: Layer, outputs: int) -> Iterable[Slot]:
    """The scales of 8-bit weights, of the input and of the output."""
    term = layer.number(8, 0)
    grouped = layer.type == "ConvolutionDepthWise"
    if grouped and term not in (0, 1, 2, 101, 102):
        raise bad(f"{layer.where}: the option 8 is {term:,}")
    if term:
        count = (layer.count(7, 1) if term in (1, 101) else 1) if grouped else outputs
        yield plain(f"weight{INVERSE_SCALE}", count)
        yield plain(f"input{INVERSE_SCALE}", 1)
    if term > 100 and layer.type != "InnerProduct":
        yield plain(f"output{INVERSE_SCALE}", 1)


def _deconvolution(dimensions: int, *, dynamic: int | None, grouped: bool) -> Callable[[Layer], Iterable[Slot]]:
    def stored(layer: Layer) -> Iterable[Slot]:
        if dynamic is not None and layer.number(dynamic, 0):
            return
        outputs, kernel = layer.count(0), _kernel(layer, dimensions)
        groups = layer.count(7, 1) if grouped else 1
        if outputs % groups:
            raise bad(f"{layer.where} has {groups:,} groups of {outputs:,} outputs")
        inputs = shares(layer, 6, outputs, *kernel)
        lies = (groups, outputs // groups, inputs, *kernel)
        axes = (0, 2, 1, *range(3, len(lies)))
        view = View("weight", (groups * inputs, outputs // groups, *kernel), None, lies, axes)
        yield Slot(prod(lies), True, (view,))
        if layer.number(5, 0):
            yield plain("bias", outputs)

    return stored


def _inner_product(layer: Layer) -> Iterable[Slot]:
    outputs = layer.count(0)
    yield flagged("weight", outputs, shares(layer, 2, outputs))
    if layer.number(1, 0):
        yield plain("bias", outputs)
    yield from _scales(layer, outputs)


def _embed(layer: Layer) -> Iterable[Slot]:
    outputs = layer.count(0)
    yield flagged("weight", shares(layer, 3, outputs), outputs)
    if layer.number(2, 0):
        yield plain("bias", outputs)
    if layer.number(18, 0):
        yield plain(f"weight{INVERSE_SCALE}", 1)


def _check_blocks(layer: Layer) -> int:
    """The option that says how weights are quantized. Raises UnsupportedError if it is in blocks."""
    term = layer.number(18, 0)
    if term in (4, 5, 6) or term >= 400:
        raise UnsupportedError(
            f"{layer.where} has weights that are quantized in blocks", hint="name the network before it was quantized"
        )
    return term


def _gemm(layer: Layer) -> Iterable[Slot]:
    term, (m, n, k) = _check_blocks(layer), (layer.number(key, 0) for key in (7, 8, 9))
    has_a, has_b = layer.number(4, 0) == 1, layer.number(5, 0) == 1
    if (has_a and min(m, k) < 1) or (has_b and min(n, k) < 1):
        raise bad(f"{layer.where} has {m:,} × {k:,} and {k:,} × {n:,} numbers")
    if has_a:
        yield flagged("A", *((k, m) if layer.number(2, 0) else (m, k)))
    if has_b:
        yield flagged("weight", n, k) if layer.number(3, 0) else _turned("weight", k, n)
    if layer.number(6, 0) == 1 and (shaped := layer.number(10, 0)) != -1:
        shapes: dict[int, Shape] = {0: (1,), 1: (m,), 2: (m, 1), 3: (m, n), 4: (n,)}
        if shaped not in shapes or min(shapes[shaped]) < 1:
            raise bad(f"{layer.where} adds numbers of no known shape ({shaped:,})")
        yield flagged("bias", *shapes[shaped])
    if term and has_a:
        yield plain(f"A{INVERSE_SCALE}", m)
    if term and has_b:
        yield plain(f"weight{INVERSE_SCALE}", 1)


def _turned(name: str, rows: int, columns: int) -> Slot:
    """A matrix that is stored as the transpose of torch's."""
    return Slot(rows * columns, True, (View(name, (columns, rows), None, (rows, columns), (1, 0)),))


def _norm(*names: str, size: int = 0, affine: int | None = None) -> Callable[[Layer], Iterable[Slot]]:
    """Bare numbers, all of the size in the option `size`, unless the option `affine` says that there are none."""

    def stored(layer: Layer) -> Iterable[Slot]:
        if affine is None or layer.number(affine, 1):
            yield from (plain(name, layer.count(size)) for name in names)

    return stored


def _scale(layer: Layer) -> Iterable[Slot]:
    if layer.number(0, 0) == -233:  # it scales by another layer's output
        return
    yield plain("weight", layer.count(0))
    if layer.number(1, 0):
        yield plain("bias", layer.count(0))


def _padding(layer: Layer) -> Iterable[Slot]:
    if layer.number(6, 0):
        yield plain("value", layer.count(6))


def _requantize(*names: str, bias: int | None) -> Callable[[Layer], Iterable[Slot]]:
    """Scales, whose sizes are in the options 0, 1 …, and a bias of the size in the option `bias`."""

    def stored(layer: Layer) -> Iterable[Slot]:
        yield from (plain(name, layer.count(key, 1)) for key, name in enumerate(names))
        if bias is not None and layer.number(bias, 0):
            yield plain("bias", layer.count(bias))

    return stored


def _memory(layer: Layer) -> Iterable[Slot]:
    width, height, depth, channels = (layer.number(key, 0) for key in (0, 1, 11, 2))
    if depth:
        shape: Shape = (channels, depth, height, width)
    elif channels:
        shape = (channels, height, width)
    else:
        shape = (height, width) if height else (width,)
    kind = layer.number(21, 1)
    if kind not in (0, 1):
        raise UnsupportedError(
            f"{layer.where} is stored in the form {kind:,}, which is not known", hint="make the .param again with pnnx"
        )
    if any(shape):
        if min(shape) < 1:
            raise bad(f"{layer.where} has the shape {list(shape)}")
        yield Slot(prod(shape), kind == 0, (View("", shape),))


def _attention(layer: Layer) -> Iterable[Slot]:
    term, width = _check_blocks(layer), layer.count(0)
    inputs = shares(layer, 2, width)
    for part, key in (("q", None), ("k", 3), ("v", 4)):
        yield flagged(f"{part}_proj.weight", width, inputs if key is None else layer.count(key, width))
        yield plain(f"{part}_proj.bias", width)
    yield flagged("out_proj.weight", inputs, width)
    yield plain("out_proj.bias", inputs)
    if term:
        yield from (plain(f"{part}_proj.weight{INVERSE_SCALE}", width) for part in "qkv")
        yield plain(f"out_proj.weight{INVERSE_SCALE}", 1)


def _recurrent(gates: tuple[int, ...], biases: int) -> Callable[[Layer], Iterable[Slot]]:
    """A recurrent layer; `gates`: the places in the file of torch's gates; `biases`: how many for each output."""

    def stored(layer: Layer) -> Iterable[Slot]:
        outputs, direction = layer.count(0), layer.number(2, 0)
        if not 0 <= direction <= 2:
            raise bad(f"{layer.where}: the option 2 is {direction:,}")
        hidden = layer.count(3, outputs) if layer.type == "LSTM" else outputs
        ends = ("_l0", "_l0_reverse") if direction == 2 else (("_l0", "_l0_reverse")[direction],)
        rows, order = len(gates) * hidden, gates
        inputs = shares(layer, 1, len(ends), rows)
        yield _directions("weight_ih", ends, order, hidden, (rows, inputs))
        order = gates if biases == len(gates) else tuple(range(biases))
        yield _directions("bias", ends, order, hidden, (biases * hidden,))
        yield _directions("weight_hh", ends, gates, hidden, (rows, outputs))
        if hidden != outputs:
            yield _directions("weight_hr", ends, (0,), outputs, (outputs, hidden))
        if layer.number(8, 0):
            for name in ("weight_ih", "weight_hh"):
                yield _directions(name, ends, gates, hidden, (rows,), has_flag=False, last=INVERSE_SCALE)

    return stored


def _directions(
    name: str, ends: tuple[str, ...], order: tuple[int, ...], height: int, shape: Shape, *, has_flag: bool = True,
    last: str = "",
) -> Slot:  # fmt: skip
    """An array with a tensor for each direction, whose parts of `height` rows stand in this order."""
    size, part = prod(shape), height * prod(shape[1:])
    views = [
        View(f"{name}{end}{last}", shape, _joined([(at * size + place * part, part) for place in order]))
        for at, end in enumerate(ends)
    ]
    return Slot(len(ends) * size, has_flag, tuple(views))


def _joined(parts: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The first and the last element of runs, from the first and the number; neighbours are one."""
    runs = list[tuple[int, int]]()
    for start, count in parts:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + count)
        else:
            runs.append((start, start + count))
    return tuple(runs)


KINDS: dict[str, Callable[[Layer], Iterable[Slot]]] = {
    "BatchNorm": _norm("weight", "running_mean", "running_var", "bias"),
    "Bias": _norm("bias"),
    "Convolution": _convolution(2, dynamic=19, scales=True),
    "Convolution1D": _convolution(1, dynamic=19),
    "Convolution3D": _convolution(3, dynamic=None),
    "ConvolutionDepthWise": _convolution(2, dynamic=19, scales=True),
    "ConvolutionDepthWise1D": _convolution(1, dynamic=19),
    "ConvolutionDepthWise3D": _convolution(3, dynamic=None),
    "Deconvolution": _deconvolution(2, dynamic=28, grouped=False),
    "Deconvolution1D": _deconvolution(1, dynamic=28, grouped=False),
    "Deconvolution3D": _deconvolution(3, dynamic=None, grouped=False),
    "DeconvolutionDepthWise": _deconvolution(2, dynamic=28, grouped=True),
    "DeconvolutionDepthWise1D": _deconvolution(1, dynamic=28, grouped=True),
    "DeconvolutionDepthWise3D": _deconvolution(3, dynamic=None, grouped=True),
    "DeformableConv2D": _convolution(2, dynamic=None),
    "Dequantize": _requantize("scale", bias=1),
    "Embed": _embed,
    "GRU": _recurrent((0, 1, 2), 4),
    "Gemm": _gemm,
    "GroupNorm": _norm("weight", "bias", size=1, affine=3),
    "InnerProduct": _inner_product,
    "InstanceNorm": _norm("weight", "bias", affine=2),
    "LSTM": _recurrent((0, 1, 3, 2), 4),
    "LayerNorm": _norm("weight", "bias", affine=2),
    "MemoryData": _memory,
    "MultiHeadAttention": _attention,
    "Normalize": _norm("weight", size=3),
    "PReLU": _norm("weight"),
    "Padding": _padding,
    "Quantize": _requantize("scale", bias=None),
    "RMSNorm": _norm("weight", affine=2),
    "RNN": _recurrent((0,), 1),
    "Requantize": _requantize("scale_in", "scale_out", bias=2),
    "Scale": _scale,
}
"""What layers store, by their types."""

UNSTORED = frozenset([
    "AbsVal", "ArgMax", "BNLL", "BinaryOp", "CELU", "Cast", "Clip", "Concat", "CopyTo", "Crop", "CumulativeSum",
    "DeepCopy", "DetectionOutput", "Diag", "Dropout", "ELU", "Einsum", "Eltwise", "Erf", "Exp", "ExpandDims",
    "Flatten", "Flip", "Fold", "GELU", "GLU", "GridSample", "HardSigmoid", "HardSwish", "Input", "Interp",
    "InverseSpectrogram", "LRN", "Log", "MVN", "MatMul", "Mish", "Noop", "PSROIPooling", "Packing", "Permute",
    "PixelShuffle", "Pooling", "Pooling1D", "Pooling3D", "Power", "PriorBox", "Proposal", "ROIAlign", "ROIPooling",
    "ReLU", "Reduction", "Reorg", "Reshape", "RotaryEmbed", "SDPA", "SELU", "SPP", "Shrink", "ShuffleChannel",
    "Sigmoid", "Slice", "Softmax", "Softplus", "Spectrogram", "Split", "Squeeze", "StatisticsPooling", "Swish",
    "TanH", "Threshold", "Tile", "UnaryOp", "Unfold", "YoloDetectionOutput", "Yolov3DetectionOutput",
])  # fmt: skip
"""Layers of ncnn's that store nothing."""
