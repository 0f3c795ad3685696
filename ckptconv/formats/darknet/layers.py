"""What each layer of a Darknet network stores, in the file's order, and the size of its output.

    convolutional       biases, scales, means, variances, weights (outputs × inputs / groups × height × width)
    deconvolutional     the same; weights are inputs × outputs × height × width
    connected           biases, weights (outputs × inputs), scales, means, variances
    batchnorm           scales, means, variances; before them biases, in files of the revision 5 and later
    local               biases, weights (places × outputs × inputs × height × width)
    rnn  gru  lstm      connected layers (`PARTS`)
    crnn                convolutional layers
    shortcut            weights of its inputs, if it has a weights_type
    implicit            weights

Scales, means and variances are there only with ``batch_normalize``, and not with ``dontloadscales``. A layer with
``dontload`` or a ``share_index`` stores nothing. Other layers that are named here have no weights; those that are not
named here are refused.

Revision 5 is AlexeyAB's and its successors', lower ones are Darknet's own.

Source: darknet/src/parser.c (`load_weights_upto`, `parse_*`), *_layer.c (`make_*_layer`), of both.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError
from ckptconv.formats.darknet.config import MAX_NUMBER, Section, bad
from ckptconv.formats.darknet.place import Layer, Place, Shape, Size, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PARTS = {
    "gru": ("state_z", "state_r", "state_h", "input_z", "input_r", "input_h"),
    "gru of revision 5": ("input_z", "input_r", "input_h", "state_z", "state_r", "state_h"),
    "lstm": ("state_i", "state_f", "state_o", "state_g", "input_i", "input_f", "input_o", "input_g"),
    "lstm of revision 5": ("state_f", "state_i", "state_g", "state_o", "input_f", "input_i", "input_g", "input_o"),
}
"""The parts of recurrent layers, in the file's order: connected layers from the state and from the input."""

UNCHANGED = frozenset(
    [
        "activation",
        "contrastive",
        "cost",
        "detection",
        "dropout",
        "empty",
        "gaussian_yolo",
        "iseg",
        "l2norm",
        "logistic",
        "lrn",
        "normalization",
        "region",
        "silence",
        "soft",
        "softmax",
        "yolo",
    ]
)
"""Layers without weights that give an image of the size that they get."""


def plan(sections: Sequence[Section], revision: int, *, transposed: bool) -> list[Layer]:
    """The network's layers. Raises CorruptFileError, UnsupportedError."""
    net, layers = sections[0], list[Layer]()
    sides = [net.number(key, 0) for key in ("channels", "height", "width")]
    given = replace(Size.image(*sides), numbers=net.number("inputs", prod(sides)))
    for index, section in enumerate(sections[1:]):
        place = Place(section, index, given, layers, revision, transposed)
        slots, given = _layer(place)
        if not min(given.channels, given.height, given.width) >= 0 or max(_sides(given)) > MAX_NUMBER:
            raise bad(f"{section.where} gives {given.channels:,} × {given.height:,} × {given.width:,} numbers")
        layers.append(Layer(section, () if section.flag("dontload") else tuple(slots), given))
    return layers


def _sides(size: Size) -> tuple[int, int, int, int]:
    return size.channels, size.height, size.width, size.numbers


def _layer(place: Place) -> tuple[list[Slot], Size]:
    kind = place.section.kind
    if kind in UNCHANGED:
        return [], place.given
    if kind not in _KINDS:
        raise UnsupportedError(
            f"{place.section.where} is a layer whose weights are not known here",
            hint="save the network's weights from a library that runs it",
        )
    slots, size = _KINDS[kind](place)
    return list(slots), size


def _normalized(prefix: str, outputs: int, section: Section) -> tuple[list[Slot], str]:
    """Scales, means and variances, if a layer has them, and what its biases are called."""
    if not section.flag("batch_normalize") and not section.flag("cbn"):
        return [], ""
    if section.flag("dontloadscales"):
        return [], f"{prefix}bn.bias"
    names = ("weight", "running_mean", "running_var")
    return [Slot(f"{prefix}bn.{name}", (outputs,)) for name in names], f"{prefix}bn.bias"


def _filters(prefix: str, section: Section, shape: Shape, outputs: int, strides: Shape | None = None) -> list[Slot]:
    """What a convolutional layer stores."""
    norm, bias = _normalized(prefix, outputs, section)
    weight = Slot(f"{prefix}conv.weight", shape, strides)
    return [Slot(bias or f"{prefix}conv.bias", (outputs,)), *norm, weight]


def _matrix(prefix: str, section: Section, outputs: int, inputs: int, *, transposed: bool) -> list[Slot]:
    """What a connected layer stores."""
    norm, bias = _normalized(prefix, outputs, section)
    strides = (1, outputs) if transposed else None
    return [Slot(bias or f"{prefix}fc.bias", (outputs,)), Slot(f"{prefix}fc.weight", (outputs, inputs), strides), *norm]


def _slid(section: Section, length: int, padding: int, size: int, stride: str = "stride") -> int:
    """How often a window fits into a length."""
    return (length + padding - size) // section.count(stride, section.count("stride", 1)) + 1


def _convolutional(place: Place) -> tuple[list[Slot], Size]:
    section, given = place.section, place.image()
    outputs, size, groups = section.count("filters", 1), section.count("size", 1), section.count("groups", 1)
    padding = 2 * (size // 2 if section.flag("pad") else section.number("padding", 0))
    out = Size.image(
        outputs,
        _slid(section, given.height, padding, size, "stride_y"),
        _slid(section, given.width, padding, size, "stride_x"),
    )
    if given.channels % groups:
        raise bad(f"{section.where} has {groups:,} groups of {given.channels:,} channels")
    if "share_index" in section.options:
        place.at(section.number("share_index", 0))
        return [], out
    shape = (outputs, given.channels // groups, size, size)
    flipped = (1, size * size * outputs, size * outputs, outputs) if section.flag("flipped") else None
    return _filters(f"{place.index}.", section, shape, outputs, flipped), out


def _deconvolutional(place: Place) -> tuple[list[Slot], Size]:
    section, given = place.section, place.image()
    outputs, size, stride = section.count("filters", 1), section.count("size", 1), section.count("stride", 1)
    if place.revision >= 5 and section.flag("batch_normalize"):
        raise UnsupportedError(f"{section.where} has batch_normalize, which only Darknet's own files have",
                               hint="save the network's weights from a library that runs it")  # fmt: skip
    padding = 2 * (size // 2 if section.flag("pad") else section.number("padding", 0))
    height, width = ((length - 1) * stride + size - padding for length in (given.height, given.width))
    slots = _filters(f"{place.index}.", section, (given.channels, outputs, size, size), outputs)
    return slots, Size.image(outputs, height, width)


def _connected(place: Place) -> tuple[list[Slot], Size]:
    outputs = place.section.count("output", 1)
    slots = _matrix(f"{place.index}.", place.section, outputs, place.given.numbers, transposed=place.transposed)
    return slots, Size.vector(outputs)


def _batchnorm(place: Place) -> tuple[list[Slot], Size]:
    names = [*(["bias"] if place.revision >= 5 else []), "weight", "running_mean", "running_var"]
    return [Slot(f"{place.index}.bn.{name}", (place.image().channels,)) for name in names], place.given


def _local(place: Place) -> tuple[list[Slot], Size]:
    section, given = place.section, place.image()
    outputs, size = section.count("filters", 1), section.count("size", 1)
    taken = 1 if section.flag("pad") else size
    height, width = (_slid(section, length, 0, taken) for length in (given.height, given.width))
    shape = (height * width, outputs, given.channels, size, size)
    slots = [Slot(f"{place.index}.local.bias", (outputs, height, width)), Slot(f"{place.index}.local.weight", shape)]
    return slots, Size.image(outputs, height, width)


def _rnn(place: Place) -> tuple[list[Slot], Size]:
    outputs = place.section.count("output", 1)
    hidden = place.section.count("hidden", 1) if place.revision >= 5 else outputs
    parts = (("input", hidden, place.given.numbers), ("self", hidden, hidden), ("output", outputs, hidden))
    return list(_matrices(place, parts)), Size.vector(outputs)


def _gated(place: Place) -> tuple[list[Slot], Size]:
    kind, outputs = place.section.kind, place.section.count("output", 1)
    names = PARTS[f"{kind} of revision 5" if place.revision >= 5 else kind]
    parts = [(name, outputs, place.given.numbers if name.startswith("input") else outputs) for name in names]
    return list(_matrices(place, parts)), Size.vector(outputs)


def _matrices(place: Place, parts: Sequence[tuple[str, int, int]]) -> Iterator[Slot]:
    for name, outputs, inputs in parts:
        prefix = f"{place.index}.{name}."
        yield from _matrix(prefix, place.section, outputs, inputs, transposed=place.transposed)


def _crnn(place: Place) -> tuple[list[Slot], Size]:
    section, given = place.section, place.image()
    if place.revision >= 5:
        outputs, hidden = section.count("output", 1), section.count("hidden", 1)
        size, groups = section.count("size", 3), section.count("groups", 1)
    else:
        outputs, hidden = section.count("output_filters", 1), section.count("hidden_filters", 1)
        size, groups = 3, 1
    parts = (("input", hidden, given.channels), ("self", hidden, hidden), ("output", outputs, hidden))
    slots: list[Slot] = []
    for name, filters, channels in parts:
        if channels % groups:
            raise bad(f"{section.where} has {groups:,} groups of {channels:,} channels")
        shape = (filters, channels // groups, size, size)
        slots += _filters(f"{place.index}.{name}.", section, shape, filters)
    return slots, Size.image(outputs, given.height, given.width)


def _shortcut(place: Place) -> tuple[list[Slot], Size]:
    sources = place.section.numbers("from")
    for number in sources:
        place.at(number)
    match place.section.options.get("weights_type"):
        case "per_feature" | "per_layer":
            shape: Shape = (len(sources) + 1,)
        case "per_channel":
            shape = (len(sources) + 1, place.given.channels)
        case _:
            return [], place.given
    return [Slot(f"{place.index}.weight", shape)], place.given


def _implicit(place: Place) -> tuple[list[Slot], Size]:
    filters, atoms = place.section.count("filters", 128), place.section.count("atoms", 1)
    return [Slot(f"{place.index}.weight", (atoms, filters))], Size.vector(filters)


def _route(place: Place) -> tuple[list[Slot], Size]:
    sizes = [place.at(number) for number in place.section.numbers("layers")]
    first, numbers = sizes[0], sum(size.numbers for size in sizes)
    groups = place.section.count("groups", 1)
    if any((size.height, size.width) != (first.height, first.width) for size in sizes):
        return [], Size(0, 0, 0, numbers // groups)
    channels = sum(size.channels for size in sizes) // groups
    return [], Size(channels, first.height, first.width, numbers // groups)


def _other(place: Place) -> tuple[list[Slot], Size]:
    """The output of one layer is that of another."""
    return [], place.at(place.section.numbers("from")[0])


def _upsample(place: Place) -> tuple[list[Slot], Size]:
    given, stride = place.given, place.section.number("stride", 2)
    if stride < 0:
        return [], Size.image(given.channels, given.height // -stride, given.width // -stride)
    return [], Size.image(given.channels, given.height * stride, given.width * stride)


def _reorg(place: Place) -> tuple[list[Slot], Size]:
    section, given, stride = place.section, place.given, place.section.count("stride", 1)
    if extra := section.number("extra", 0):
        return [], Size(0, 0, 0, given.numbers + extra)
    if section.flag("reverse"):
        return [], Size.image(given.channels // stride**2, given.height * stride, given.width * stride)
    return [], Size.image(given.channels * stride**2, given.height // stride, given.width // stride)


def _pooled(place: Place) -> tuple[list[Slot], Size]:
    section, given = place.section, place.given
    size = section.count("size", section.count("stride", 1))
    padding = section.number("padding", size - 1)
    channels = section.count("out_channels", 1) if section.flag("maxpool_depth") else given.channels
    height = _slid(section, given.height, padding, size, "stride_y")
    return [], Size.image(channels, height, _slid(section, given.width, padding, size, "stride_x"))


def _averaged(place: Place) -> tuple[list[Slot], Size]:
    return [], Size.image(place.given.channels, 1, 1)


def _cropped(place: Place) -> tuple[list[Slot], Size]:
    height, width = (place.section.count(key, 1) for key in ("crop_height", "crop_width"))
    return [], Size.image(place.given.channels, height, width)


_KINDS: dict[str, Callable[[Place], tuple[list[Slot], Size]]] = {
    "conv": _convolutional, "convolutional": _convolutional, "deconv": _deconvolutional,
    "deconvolutional": _deconvolutional, "conn": _connected, "connected": _connected, "batchnorm": _batchnorm,
    "local": _local, "rnn": _rnn, "gru": _gated, "lstm": _gated, "crnn": _crnn, "shortcut": _shortcut,
    "implicit": _implicit, "route": _route, "sam": _other, "scale_channels": _other, "upsample": _upsample,
    "reorg": _reorg, "reorg3d": _reorg, "max": _pooled, "maxpool": _pooled, "local_avg": _pooled,
    "local_avgpool": _pooled, "avg": _averaged, "avgpool": _averaged, "crop": _cropped,
}  # fmt: skip
"""What each kind of layer stores and gives."""
