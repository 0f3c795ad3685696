"""Keras 3's names: ``layers/dense_1/vars/0``, a group for each layer, in which its variables are numbered.

A layer in a list (``layers``) is named after its class, any other after the attribute that holds it (``key_dense``).
What the numbers mean depends on the class, which is taken from the group's name, from the layer's own name (``{"name":
"dense_3"}`` in the metadata under the group's path), or from what the configuration says about a layer of that name.
Variables keep their numbers if the class is not in `VARIABLES`, or cannot have so many variables.
Sources: keras/src/saving/saving_lib.py; keras/src/layers, `build` of each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.edits.dialects.keras_config import Configuration

_VARS = "vars"
_LIST = "layers"
_ATTENTION = {"query_dense": "query", "key_dense": "key", "value_dense": "value", "output_dense": "attention_output"}
_CLASS = re.compile(r"([a-z][a-z0-9_]*?)(_\d+)?")

_KERNEL = (("kernel",), ("kernel", "bias"))
_DEPTHWISE = (("depthwise_kernel",), ("depthwise_kernel", "bias"))
_SEPARABLE = (("depthwise_kernel", "pointwise_kernel"), ("depthwise_kernel", "pointwise_kernel", "bias"))
_NORM = (("gamma", "beta"),)
_RECURRENT = (("kernel", "recurrent_kernel"), ("kernel", "recurrent_kernel", "bias"))

VARIABLES: dict[str, tuple[tuple[str, ...], ...]] = {
    "dense": _KERNEL,
    **{f"conv{n}d": _KERNEL for n in (1, 2, 3)},
    **{f"conv{n}d_transpose": _KERNEL for n in (1, 2, 3)},
    **{f"depthwise_conv{n}d": _DEPTHWISE for n in (1, 2)},
    **{f"separable_conv{n}d": _SEPARABLE for n in (1, 2)},
    "batch_normalization": (
        ("gamma", "beta", "moving_mean", "moving_variance"), ("moving_mean", "moving_variance"),
    ),
    "layer_normalization": _NORM,
    "group_normalization": _NORM,
    "rms_normalization": (("scale",),),
    "embedding": (("embeddings",),),
    "reversible_embedding": (("embeddings",), ("embeddings", "reverse_embeddings")),
    **{f"{cell}_cell": _RECURRENT for cell in ("lstm", "gru", "simple_rnn")},
    **{f"{part}_dense": _KERNEL for part in ("query", "key", "value", "output")},
}  # fmt: skip
"""The variables of a layer by its class, in the order in which it creates them; several lists where options leave some
out.
"""


def path_of(
    parts: Sequence[str], counts: Mapping[str, int], metadata: Mapping[object, object], configuration: Configuration
) -> tuple[str, ...] | None:
    """The modules and Keras' word for the variable that `parts` name; None if they are not such a name, or if the
    layer's class is not known.

    counts:   how many variables there are under each path.
    metadata: the file's; it has a layer's own name under the path of its group.
    """
    if len(parts) < 3 or parts[-2] != _VARS or not parts[-1].isdecimal() or len(parts[-1]) > 4:
        return None
    group = parts[:-2]
    count = counts["/".join((*group, _VARS))]
    own = recorded_name(group, metadata)
    for called in (group[-1], own, configuration.class_of(own) or _nameless_cell(group, own, configuration)):
        known = _CLASS.fullmatch(called)
        for words in VARIABLES.get(known[1], ()) if known else ():
            if len(words) == count and int(parts[-1]) < count:
                return (*_modules(group, metadata), words[int(parts[-1])])
    return None


def _nameless_cell(group: Sequence[str], own: str, configuration: Configuration) -> str:
    """The class of a recurrent layer's cell where groups have no names, as in Keras 2's archives; else ""."""
    if own or group[-1] != "cell" or len(group) < 2:
        return ""
    known = _CLASS.fullmatch(group[-2])
    around = known[1] if known else ""
    if around in ("forward_layer", "backward_layer") and configuration.wraps_only_builtin:
        return "lstm_cell"  # all have variables of the same names
    return f"{around}_cell"


def _modules(group: Sequence[str], metadata: Mapping[object, object]) -> list[str]:
    """The names of the layers along the path to a group; layers in lists go by their own names if they have any."""
    found = []
    for i, part in enumerate(group):
        in_list = i > 0 and group[i - 1] == _LIST
        if part == _LIST and not in_list:
            continue
        own = recorded_name(group[: i + 1], metadata) if in_list else ""
        found.append(own or _ATTENTION.get(part, part))
    return found


def recorded_name(group: Sequence[str], metadata: Mapping[object, object]) -> str:
    """The layer's own name, which metadata has under the path of its group; "" if it has none."""
    recorded = metadata.get("/".join((*group, _VARS)))
    name = recorded.get("name") if isinstance(recorded, Mapping) else None
    return name if isinstance(name, str) else ""
