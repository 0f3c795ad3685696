"""What torch's newer exporter notes on a node: the modules that the operation is in, the outermost first.

    pkg.torch.onnx.class_hierarchy    "['models.Net', 'torch.nn.modules.linear.Linear', 'aten.linear.default']"
    pkg.torch.onnx.name_scopes        "['', 'fc', 'linear']"

The last entry of both is the operation itself.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.formats.onnx.walk import read_properties

if TYPE_CHECKING:
    from ckptconv.formats.onnx.graph import Node
    from ckptconv.formats.onnx.wire import Window

_CLASSES, _SCOPES = "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'([^']*)'")


class Scopes(NamedTuple):
    """The modules that an operation is in, outermost first, then the operation itself."""

    classes: list[str]
    names: list[str]


def read_scopes(window: Window, node: Node) -> Scopes:
    """Read the scopes from the node's properties; both lists are empty if it has none."""
    notes = read_properties(window, node)
    return Scopes(_QUOTED.findall(notes.get(_CLASSES, "")), _QUOTED.findall(notes.get(_SCOPES, "")))
