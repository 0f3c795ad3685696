"""Names without the prefixes that tensors got as one graph was put into another.

    spox          puts a model into a graph of its own (``inline``): ``Inline_0__fc.weight``, and in a branch with the
                  branch's name before it: ``If_0_then_branch__Inline_0__fc.weight``. It signs as the model's producer.
    onnxruntime   replaces an If whose condition it knows by the branch: ``_if_else_branch_fc.weight``, or, where that
                  name is taken, ``_if_else_branch_token_1_fc.weight``. It leaves the producer, and imports operators of
                  its own into every model that it saves.

A prefix is left out where such a program wrote the file, and where no other tensor has the name behind it, with or
without a prefix: two branches with a network each (Silero's VAD) keep theirs.

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
_BY_ONNXRUNTIME = "com.microsoft.nchwc"
_BRANCH = re.compile(r"_if_(?:then|else)_branch_(?:token_\d+_)?(?P<name>.+)", re.DOTALL)
_INLINE = re.compile(r"Inline_\d+__(?P<name>.+)", re.DOTALL)


def inlined(model: Model, graph: Graph) -> dict[str, str]:
    """The names behind the prefixes, by those of the graph."""
    behind: dict[str, str] = {}
    every: list[str] = []
    for _, one in subgraphs(graph):
        for name in _tensors(one):
            every.append(name)
            found = _behind(name, model, one)
            if found is not None:
                behind[name] = found
    counts = Counter(every) + Counter(behind.get(name, "") for name in every)
    return {name: plain for name, plain in behind.items() if counts[plain] == 1}


def _tensors(graph: Graph) -> Iterator[str]:
    yield from (header.name for header in graph.initializers)
    for node in graph.nodes:
        if node.is_constant and node.outputs:
            yield node.outputs[0]


def _behind(name: str, model: Model, graph: Graph) -> str | None:
    if model.texts.get(_PRODUCER) == "spox":
        found = _INLINE.fullmatch(name.removeprefix(f"{graph.name}__"))
    elif _BY_ONNXRUNTIME in model.opsets:
        found = _BRANCH.fullmatch(name)
    else:
        return None
    return found["name"] if found else None
