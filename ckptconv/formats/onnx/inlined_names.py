"""Names without the prefixes that tensors get when one graph is inlined into another.

    spox          inlines a model into another graph (``inline``): ``Inline_0__fc.weight``, and in a branch, after the
                  branch's name: ``If_0_then_branch__Inline_0__fc.weight``. It names itself as the producer.
    onnxruntime   replaces an If whose condition is constant by its branch: ``_if_else_branch_fc.weight``, or, if that
                  name is taken, ``_if_else_branch_token_1_fc.weight``. It does not change the producer, but imports its
                  own operators into every model that it saves.

A prefix is removed only if such a program wrote the file, and if no other tensor has the same name after its prefix, if
any: two branches with a network each (Silero's VAD) keep their prefixes.

Source: spox/_inline.py, spox/_build.py (0.18); onnxruntime/core/graph/graph.cc (`InlineIfSubgraph`), from 1.17 to 1.32.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.graph import subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.formats.onnx.graph import Graph, Model

_PRODUCER = 2
_ONNXRUNTIME_DOMAIN = "com.microsoft.nchwc"
_BRANCH = re.compile(r"_if_(?:then|else)_branch_(?:token_\d+_)?(?P<name>.+)", re.DOTALL)
_INLINE = re.compile(r"Inline_\d+__(?P<name>.+)", re.DOTALL)


def find_inlined_names(model: Model, graph: Graph) -> dict[str, str]:
    """The graph's name → the name without its prefix."""
    plain_names: dict[str, str] = {}
    all_names: list[str] = []
    for _, inner in subgraphs(graph):
        for name in _tensor_names(inner):
            all_names.append(name)
            plain = _without_prefix(name, model, inner)
            if plain is not None:
                plain_names[name] = plain
    counts = Counter(all_names) + Counter(plain_names.get(name, "") for name in all_names)
    return {name: plain for name, plain in plain_names.items() if counts[plain] == 1}


def _tensor_names(graph: Graph) -> Iterator[str]:
    yield from (header.name for header in graph.initializers)
    for node in graph.nodes:
        if node.is_constant and node.outputs:
            yield node.outputs[0]


def _without_prefix(name: str, model: Model, graph: Graph) -> str | None:
    if model.texts.get(_PRODUCER) == "spox":
        match = _INLINE.fullmatch(name.removeprefix(f"{graph.name}__"))
    elif _ONNXRUNTIME_DOMAIN in model.opsets:
        match = _BRANCH.fullmatch(name)
    else:
        return None
    return match["name"] if match else None
