"""The layers of Keras files by their variables, with what the configuration says of each.

A layer's variables are a group: numbered (``layers/dense/vars/0``) or named (``dense/dense/kernel:0``). Its
configuration is found by the layer's own name; of several of one name, nothing is known. The layers inside an attention
are not in the configuration, but the attention is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.edits.dialects.keras_config import DOCUMENTS, Layer, layers_in
from ckptconv.edits.dialects.numbered import recorded_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.tensor import TensorInfo

_NUMBERED = re.compile(r"(?:(.+)/)?vars/(\d{1,4})")
_NAMED = re.compile(r"(?:(.+)/)?([a-z_0-9]+)(?::\d+)?")
_CLASS = re.compile(r"([a-z][a-z0-9_]*?)(_\d+)?")


@dataclass(slots=True)
class Variables:
    """The variables of a layer.

    path:   its group's path.
    names:  the tensors' names, by number or by Keras' word.
    layer:  its configuration, if it is known.
    around: the configuration of the layer that has it, if it is known.
    """

    path: str
    names: dict[str, str]
    layer: Layer | None
    around: Layer | None

    @property
    def numbered(self) -> bool:
        """Whether they are numbered."""
        return next(iter(self.names)).isdecimal()

    @property
    def called(self) -> str:
        """Its class, spelled as in Keras' paths, ``einsum_dense``, or the attribute that holds it, ``query_dense``."""
        if self.layer is not None:
            return re.sub("([a-z])([A-Z])", r"\1_\2", self.layer.class_name).lower()
        known = _CLASS.fullmatch(self.path.rpartition("/")[2])
        return known[1] if known else ""


def groups_of(tensors: Mapping[str, TensorInfo], metadata: Mapping[object, object]) -> Iterator[Variables]:
    """The variables of every layer, those that are numbered in the order of their numbers."""
    by_name: dict[str, list[Layer]] = defaultdict(list)
    for key in DOCUMENTS:
        for layer in layers_in(metadata.get(key)):
            by_name[layer.name].append(layer)
    groups: dict[tuple[str, bool], dict[str, str]] = defaultdict(dict)
    for name in tensors:
        numbered, named = _NUMBERED.fullmatch(name), _NAMED.fullmatch(name)
        if found := numbered or named:
            groups[found[1] or "", numbered is not None].setdefault(found[2], name)
    for (path, is_numbered), names in groups.items():
        above = path.rpartition("/")[0]
        if is_numbered:
            ordered = dict(sorted(names.items(), key=lambda entry: int(entry[0])))
            own, around = _recorded(path, metadata), _recorded(above, metadata)
        else:
            ordered, own, around = names, path.rpartition("/")[2], above.rpartition("/")[2]
        yield Variables(path, ordered, _only(by_name, own), _only(by_name, around))


def _recorded(path: str, metadata: Mapping[object, object]) -> str:
    return recorded_name(path.split("/"), metadata)


def _only(by_name: Mapping[str, list[Layer]], name: str) -> Layer | None:
    """The configuration of that name; None if there is none, or several."""
    found = by_name.get(name, []) if name else []
    return found[0] if len(found) == 1 else None
