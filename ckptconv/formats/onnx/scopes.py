"""What torch's newer exporter notes at a node: the modules that it stands in, the outermost first.

    pkg.torch.onnx.class_hierarchy    "['models.Net', 'torch.nn.modules.linear.Linear', 'aten.linear.default']"
    pkg.torch.onnx.name_scopes        "['', 'fc', 'linear']"

The last of both is the operation's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.walk import properties

if TYPE_CHECKING:
    from ckptconv.formats.onnx.graph import Node
    from ckptconv.formats.onnx.wire import Window

_CLASSES, _SCOPES = "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes"
_QUOTED = re.compile(r"'([^']*)'")


def noted(window: Window, node: Node) -> tuple[list[str], list[str]]:
    """The classes and the names. Reads the node's properties."""
    notes = properties(window, node)
    return _QUOTED.findall(notes.get(_CLASSES, "")), _QUOTED.findall(notes.get(_SCOPES, ""))
