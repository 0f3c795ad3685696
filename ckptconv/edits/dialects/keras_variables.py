"""The variables of Keras' layers, and their shapes, by a layer's configuration.

Each function gets a layer's ``config`` and the shape of its input, and gives the groups of variables below the layer's
own group ("" is that one) with the shapes in them, in the order in which Keras numbers them. It raises ValueError where
the configuration does not say a size. Layers that are not in `LAYERS` have no variables, or are not known here.
Source: keras/src/layers, `build` of each (3.15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Shape = tuple[int, ...]
    Settings = Mapping[object, object]
    Groups = dict[str, list[tuple[str, Shape]]]


_UNSTATED = "the configuration does not say a size"


def _size(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(_UNSTATED)
    return value


def sizes_in(value: object) -> Shape:
    """The sizes in a list. Raises ValueError for anything else, such as one that is not stated."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(_UNSTATED)
    return tuple(map(_size, value))


def _listed(value: object) -> list[object]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(_UNSTATED)
    return list(value)


def _input(built: Settings) -> list[object]:
    """The shape of the input, of which the number of samples and the like are not known."""
    return _listed(built.get("input_shape"))


def _at(shape: list[object], axis: object) -> int:
    if type(axis) is not int or not -len(shape) <= axis < len(shape):
        raise ValueError(_UNSTATED)
    return _size(shape[axis])


def _channels(settings: Settings, built: Settings) -> int:
    return _at(_input(built), 1 if settings.get("data_format") == "channels_first" else -1)


def _own(*variables: tuple[str, Shape] | None) -> Groups:
    return {"": [variable for variable in variables if variable is not None]}


def _bias(settings: Settings, size: int) -> tuple[str, Shape] | None:
    return ("bias", (size,)) if settings.get("use_bias", True) else None


def _dense(settings: Settings, built: Settings) -> Groups:
    units = _size(settings.get("units"))
    return _own(("kernel", (_at(_input(built), -1), units)), _bias(settings, units))


def _embedding(settings: Settings, built: Settings) -> Groups:
    shape = _size(settings.get("input_dim")), _size(settings.get("output_dim"))
    back = ("reverse_embeddings", shape[::-1]) if settings.get("tie_weights") is False else None
    return _own(("embeddings", shape), back)


def _convolution(settings: Settings, built: Settings) -> Groups:
    filters, groups = _size(settings.get("filters")), _size(settings.get("groups", 1))
    kernel = (*sizes_in(settings.get("kernel_size")), _channels(settings, built) // groups, filters)
    return _own(("kernel", kernel), _bias(settings, filters))


def _transposed(settings: Settings, built: Settings) -> Groups:
    filters = _size(settings.get("filters"))
    kernel = (*sizes_in(settings.get("kernel_size")), filters, _channels(settings, built))
    return _own(("kernel", kernel), _bias(settings, filters))


def _depthwise(settings: Settings, built: Settings) -> Groups:
    times, channels = _size(settings.get("depth_multiplier")), _channels(settings, built)
    kernel = (*sizes_in(settings.get("kernel_size")), channels, times)
    return _own(("kernel", kernel), _bias(settings, channels * times))


def _separable(settings: Settings, built: Settings) -> Groups:
    window, filters = sizes_in(settings.get("kernel_size")), _size(settings.get("filters"))
    times, channels = _size(settings.get("depth_multiplier")), _channels(settings, built)
    pointwise = (*(1 for _ in window), channels * times, filters)
    depthwise = ("depthwise_kernel", (*window, channels, times))
    return _own(depthwise, ("pointwise_kernel", pointwise), _bias(settings, filters))


def _batch_norm(settings: Settings, built: Settings) -> Groups:
    if settings.get("renorm"):
        raise ValueError(_UNSTATED)
    shape = (_at(_input(built), settings.get("axis", -1)),)
    gamma = ("gamma", shape) if settings.get("scale", True) else None
    beta = ("beta", shape) if settings.get("center", True) else None
    return _own(gamma, beta, ("moving_mean", shape), ("moving_variance", shape))


def _along(settings: Settings, built: Settings) -> Shape:
    axes = settings.get("axis", -1)
    return tuple(_at(_input(built), axis) for axis in (axes if isinstance(axes, (list, tuple)) else [axes]))


def _layer_norm(settings: Settings, built: Settings) -> Groups:
    shape, only_scales = _along(settings, built), bool(settings.get("rms_scaling"))
    gamma = ("gamma", shape) if settings.get("scale", True) or only_scales else None
    return _own(gamma, ("beta", shape) if settings.get("center", True) and not only_scales else None)


def _prelu(settings: Settings, built: Settings) -> Groups:
    shared = settings.get("shared_axes") or []
    sizes = _input(built)[1:]
    found = [1 if place in _listed(shared) else _size(size) for place, size in enumerate(sizes, 1)] if shared else sizes
    return _own(("alpha", sizes_in(found)))


def _recurrent(gates: int) -> Callable[[Settings, Settings], Groups]:
    def layer(settings: Settings, built: Settings) -> Groups:
        units = _size(settings.get("units"))
        kernel, inner = (_at(_input(built), -1), gates * units), (units, gates * units)
        has_two = gates == 3 and bool(settings.get("reset_after"))
        bias = ("bias", (2, gates * units) if has_two else (gates * units,))
        found: list[tuple[str, Shape]] = [
            ("kernel", kernel),
            ("recurrent_kernel", inner),
            *([bias] if settings.get("use_bias", True) else []),
        ]
        return {"cell": found}

    return layer


def _attention(settings: Settings, built: Settings) -> Groups:
    shapes = built.get("shapes_dict")
    if not isinstance(shapes, dict):
        raise ValueError(_UNSTATED)
    queries, values = _listed(shapes.get("query_shape")), _listed(shapes.get("value_shape"))
    keys = _listed(shapes.get("key_shape") or values)
    if (heads := settings.get("num_heads")) is not None:
        width = settings.get("key_dim")
        query = key = (_size(heads), _size(width))
        value = (_size(heads), _size(settings.get("value_dim") or width))
    else:  # several queries share a key
        width = _size(settings.get("head_dim"))
        query = _size(settings.get("num_query_heads")), width
        key = value = _size(settings.get("num_key_value_heads")), width
    stated = settings.get("output_shape")
    out = sizes_in(stated if isinstance(stated, (list, tuple)) else [stated]) if stated else (_at(queries, -1),)
    attended = settings.get("attention_axes")
    if isinstance(attended, (list, tuple)) and any(axis not in (1, -2) for axis in attended):
        raise ValueError(_UNSTATED)
    found: Groups = {}
    for part, size, tail in (("query", queries, query), ("key", keys, key), ("value", values, value)):
        found[f"{part}_dense"] = [("kernel", (_at(size, -1), *tail)), ("bias", tail)]
    found["output_dense"] = [("kernel", (query[0], value[1], *out)), ("bias", out)]
    if not settings.get("use_bias", True):
        found = {part: variables[:1] for part, variables in found.items()}
    return found


LAYERS: dict[str, Callable[[Settings, Settings], Groups]] = {
    "Dense": _dense, "Embedding": _embedding, "ReversibleEmbedding": _embedding,
    **{f"Conv{n}D": _convolution for n in (1, 2, 3)}, **{f"Conv{n}DTranspose": _transposed for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": _depthwise for n in (1, 2)}, **{f"SeparableConv{n}D": _separable for n in (1, 2)},
    "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "PReLU": _prelu,
    "GroupNormalization": lambda settings, built: _layer_norm({**settings, "rms_scaling": False}, built),
    "RMSNormalization": lambda settings, built: _own(("scale", _along(settings, built))),
    "LSTM": _recurrent(4), "GRU": _recurrent(3), "SimpleRNN": _recurrent(1),
    "MultiHeadAttention": _attention, "GroupedQueryAttention": _attention,
}  # fmt: skip
"""The layers whose variables are known."""
