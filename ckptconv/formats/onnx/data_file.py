"""Tensors outside of the graph's own file: in a data file that we write, or in a safetensors file.

A name that we choose for a data file is never that of an existing file: until the new graph is in place, the old graph
still finds its old data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import UsageError
from ckptconv.formats.onnx.layout import External
from ckptconv.formats.onnx.weights import stream
from ckptconv.formats.safetensors.layout import read_header
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.onnx.weights import Weights
    from ckptconv.io.target import Target

ALIGNMENT = 4096
"""The alignment of tensors in a data file: onnxruntime maps those that start on a page."""


def write_data_file(
    target: Target, options: WriteOptions, wanted: str, weights: Weights, hashes: dict[str, str]
) -> dict[str, External]:
    """Write the tensors into a file beside the model. Adds their content hashes to `hashes`.

    wanted: the file's name; "" to choose one.
    """
    name = _location(wanted) if wanted else _free_name(target)
    data_file = target.beside(name)
    offsets, position = {}, 0
    for stored, image in weights.images.items():
        position += -position % (ALIGNMENT if image.info.nbytes >= ALIGNMENT else 16)
        offsets[stored] = position
        position += image.info.nbytes
    data_file.reserve(position)
    hashes |= stream(data_file, options, weights, offsets, content=True)
    weights.findings.append(Finding("external-data", "info", name, f"the tensors are in {name}, beside the model"))
    return {stored: External(name, at, weights.images[stored].info.nbytes) for stored, at in offsets.items()}


def point_into_safetensors(
    checkpoint: Checkpoint, target: Target, options: WriteOptions, wanted: str, weights: Weights
) -> dict[str, External]:
    """Refer to a safetensors file: the source itself, or one that is written beside the model."""
    location = _location(wanted)
    spans = _source_spans(checkpoint, weights, target.path.parent / location)
    if spans is not None:
        message = f"the graph points into {location}, which is the source and stays as it is"
        weights.findings.append(Finding("external-data", "info", location, message))
        return {name: External(location, start, length) for name, (start, length) in spans.items()}
    assert options.write_as is not None
    written = target.beside(location)
    options.write_as("safetensors", checkpoint, written)
    with Source(written.readable_path) as source:
        slots = read_header(source).slots
    weights.findings.append(
        Finding("external-data", "info", location, f"the graph points into {location}, a whole safetensors file")
    )
    return {
        stored: External(location, slots[name].start, slots[name].info.nbytes)
        for stored, name in weights.names.items()
        if name in slots and weights.images[stored] is checkpoint[name]
    }


def _location(text: str) -> str:
    """The path as ONNX's readers accept it: relative, inside the model's folder, with forward slashes."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts or not path.name or "\\" in text:
        raise UsageError(
            f"external data must lie in the model's folder or below it, not at {text!r}",
            hint=f"-O external-data={path.name or 'weights.data'}",
        )
    return path.as_posix()


def _free_name(target: Target) -> str:
    name, number = f"{target.path.name}.data", 1
    while os.path.lexists(target.path.parent / name):
        number += 1
        name = f"{target.path.name}.{number}.data"
    return name


def _source_spans(checkpoint: Checkpoint, weights: Weights, path: Path) -> dict[str, tuple[int, int]] | None:
    """Where the tensors are in `path`, if that is the file that they are read from; None if it is not."""
    spans: dict[str, tuple[int, int]] = {}
    for stored, name in weights.names.items():
        span = checkpoint[name].span
        if span is None or not isinstance(span.file, Source) or not _same_file(span.file.path, path):
            return None
        if weights.images[stored] is checkpoint[name]:
            spans[stored] = (span.offset, span.length)
    return spans


def _same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False
