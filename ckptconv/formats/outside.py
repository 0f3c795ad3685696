"""Files of weights that mean nothing without the one beside them, which points at them: what to name instead.

X.data-0000N-of-0000M, X.meta       a checkpoint of TensorFlow's: X.index
X.bin                               a graph of OpenVINO's: X.xml
X.onnx.data, X.onnx_data            a graph of ONNX: X.onnx
group1-shard1of2.bin, X-shard1      a model of TensorFlow.js': model.json, X-weights_manifest.json
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.errors import UnknownFormatError
from ckptconv.formats.lookalikes import MADE_FROM

if TYPE_CHECKING:
    from pathlib import Path


def part_of(path: Path) -> UnknownFormatError | None:
    """What is wrong with a file that another one beside it points at; None where there is no such."""
    if index := _index_of(path):
        hint = f"name its index: {index}"
        return UnknownFormatError("this is one of the files of a TensorFlow checkpoint", hint=hint)
    if path.suffix == ".bin" and (document := path.with_suffix(".xml")).is_file():
        hint = f"name the graph: {document}"
        return UnknownFormatError(
            "these are the weights of an OpenVINO graph, which keeps them in this file", hint=hint
        )
    if path.suffix == ".bin" and path.with_suffix(".param").is_file():
        return UnknownFormatError("these are ncnn weights, whose shapes nothing states", hint=MADE_FROM)
    if graph := _graph_of(path):
        hint = f"name the graph: {graph}"
        return UnknownFormatError("these are weights that an ONNX graph keeps outside of itself", hint=hint)
    if model := _document_of(path):
        hint = f"name the model: {model}"
        return UnknownFormatError("this is one of the weight files of a TensorFlow.js model", hint=hint)
    return None


def _document_of(path: Path) -> Path | None:
    """The document beside a file of weights that TensorFlow's converter, or face-api.js, has cut."""
    shard = re.fullmatch(r"(?:group\d+|(.+))-shard\d+(?:of\d+)?(?:\.bin)?", path.name)
    if shard is None:
        return None
    documents = (f"{shard[1]}-weights_manifest.json",) if shard[1] else ("model.json", "weights_manifest.json")
    return next((one for one in map(path.with_name, documents) if one.is_file()), None)


def _graph_of(path: Path) -> Path | None:
    """The ONNX graph beside a file that is named after it, as exporters name what they put outside of it."""
    stem = re.fullmatch(r"(.+\.onnx)[._]data(_\d+)?", path.name)
    return path.with_name(stem[1]) if stem and path.with_name(stem[1]).is_file() else None


def _index_of(path: Path) -> Path | None:
    """The index beside a file of a TensorFlow checkpoint's other ones."""
    stem = re.fullmatch(r"(.+)\.(?:data-\d+-of-\d+|meta)", path.name)
    index = path.with_name(f"{stem[1]}.index") if stem else None
    return index if index is not None and index.is_file() else None
