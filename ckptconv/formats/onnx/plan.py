"""What an ONNX file will hold: a graph whose initializers are still empty, and which tensor fills each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from ckptconv.core.dtypes import DType
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding

CODE_OF: dict[DType, int] = {dtype: code for code, dtype in DTYPE_BY_CODE.items()}
"""The TensorProto.DataType of an element type."""


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """``-O`` of this format."""

    template: str = field(
        default="", metadata={"summary": "an ONNX file whose graph is kept, and gets the new weights"}
    )
    external_data: str = field(
        default="",
        metadata={
            "summary": "a file beside DST for the tensors' bytes; if its name ends in .safetensors, it is a whole "
            "safetensors file, and may be SRC itself"
        },
    )
    opset: int = field(default=0, metadata={"summary": "version of the operators, where the graph is made here"})


@dataclass(frozen=True, slots=True)
class Filling:
    """What fills an initializer: a tensor of the checkpoint, transposed if that is set."""

    tensor: str
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A graph, and what fills its initializers.

    model:    the whole model; an initializer that is to be filled has a type and dimensions, but no data.
    fillings: by the initializer's name.
    note:     the architecture that the graph was made from, with all its params, as the file's record keeps it.
    """

    model: ModelProto
    fillings: Mapping[str, Filling]
    findings: tuple[Finding, ...] = ()
    note: MetaNode = None
