"""Weight files that cannot be read on their own, because another file beside them says what is in them.

X.data-0000N-of-0000M, X.meta       TensorFlow checkpoint: X.index
X.bin                               OpenVINO graph: X.xml; ncnn graph: X.param
X.onnx.data, X.onnx_data            ONNX graph: X.onnx
X.weights                           Darknet network: X.cfg
params_shard_0.bin                  MLC-LLM model: tensor-cache.json, ndarray-cache.json
group1-shard1of2.bin, X-shard1      TensorFlow.js model: model.json, X-weights_manifest.json
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.errors import UnknownFormatError

if TYPE_CHECKING:
    from pathlib import Path


def part_file_error(path: Path) -> UnknownFormatError | None:
    """An error that says which file to open instead, if `path` is only a part of a model; otherwise None."""
    if index := _tensorflow_index(path):
        hint = f"name its index: {index}"
        return UnknownFormatError("this is one of the files of a TensorFlow checkpoint", hint=hint)
    if path.suffix == ".bin" and (document := path.with_suffix(".xml")).is_file():
        hint = f"name the graph: {document}"
        return UnknownFormatError(
            "these are the weights of an OpenVINO graph, which keeps them in this file", hint=hint
        )
    if path.suffix == ".bin" and (param := path.with_suffix(".param")).is_file():
        hint = f"name the graph: {param}"
        return UnknownFormatError("these are the weights of an ncnn graph, which says their shapes", hint=hint)
    if graph := _onnx_graph(path):
        hint = f"name the graph: {graph}"
        return UnknownFormatError("these are weights that an ONNX graph keeps outside of itself", hint=hint)
    if model := _tfjs_model(path):
        hint = f"name the model: {model}"
        return UnknownFormatError("this is one of the weight files of a TensorFlow.js model", hint=hint)
    if index := _mlc_index(path):
        hint = f"name its index: {index}"
        return UnknownFormatError("this is one of the files of a model of MLC-LLM's or WebLLM's", hint=hint)
    if path.suffix.lower() == ".weights":
        hint = f"put its network's .cfg beside it: {path.with_suffix('.cfg')}"
        message = "no known format starts like this file; by its name it is Darknet weights, such as YOLO's"
        return UnknownFormatError(message, hint=hint)
    return None


def _mlc_index(path: Path) -> Path | None:
    """The index beside a file of elements."""
    if not re.fullmatch(r"params_shard_\d+\.bin", path.name):
        return None
    indexes = map(path.with_name, ("tensor-cache.json", "ndarray-cache.json"))
    return next((index for index in indexes if index.is_file()), None)


def _tfjs_model(path: Path) -> Path | None:
    """The JSON beside a weight shard, named as TensorFlow's converter or face-api.js names its shards."""
    shard = re.fullmatch(r"(?:group\d+|(.+))-shard\d+(?:of\d+)?(?:\.bin)?", path.name)
    if shard is None:
        return None
    documents = (f"{shard[1]}-weights_manifest.json",) if shard[1] else ("model.json", "weights_manifest.json")
    return next((document for document in map(path.with_name, documents) if document.is_file()), None)


def _onnx_graph(path: Path) -> Path | None:
    """The ONNX graph that an external data file belongs to, by the names that exporters give such files."""
    stem = re.fullmatch(r"(.+\.onnx)[._]data(_\d+)?", path.name)
    return path.with_name(stem[1]) if stem and path.with_name(stem[1]).is_file() else None


def _tensorflow_index(path: Path) -> Path | None:
    """The .index beside a .data or .meta file of a TensorFlow checkpoint."""
    stem = re.fullmatch(r"(.+)\.(?:data-\d+-of-\d+|meta)", path.name)
    index = path.with_name(f"{stem[1]}.index") if stem else None
    return index if index is not None and index.is_file() else None
