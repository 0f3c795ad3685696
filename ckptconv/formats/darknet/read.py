"""Reader of Darknet's .weights, with the .cfg of the network beside them.

    i32 i32 i32     version: major, minor, revision
    u64             how many images it was trained with; u32 before version 0.2
    F32 …           the layers' weights, little-endian, one layer after another (`layers`)

The file has neither names nor shapes: both follow from the .cfg. That is NAME.cfg for NAME.weights, for
NAME_final.weights, NAME_1000.weights and the like, else the only .cfg in the folder.

Names are the layer's number and torch's words for the role: ``0.conv.weight``, ``0.bn.running_mean``, ``81.conv.bias``.
A file may end with a layer before the network's last one, as backbones do (``yolov4.conv.137``): that is reported.
Connected layers of versions over 1000 are stored as inputs × outputs, and read as outputs × inputs like others.

Refused: a file without its .cfg, one that ends within a layer, and numbers after the last one: then the .cfg is of
another network.

Source: darknet/src/parser.c (`load_weights_upto`).
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict
from ckptconv.core.notes import Notes
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError, located
from ckptconv.formats.darknet.config import is_config, read_config
from ckptconv.formats.darknet.layers import plan
from ckptconv.formats.graphs.notes import operator_counts, stays_behind
from ckptconv.io.folder import Folder
from ckptconv.io.gather import laid_out
from ckptconv.io.limits import MAX_DIM

if TYPE_CHECKING:
    from ckptconv.formats.darknet.place import Layer
    from ckptconv.io.source import Source

SUFFIX = ".cfg"
MAX_REVISION = 1000
_VERSIONS = 12
_TRAINED = re.compile(r"_(?:final|last|best|\d+)$")
_LARGE = 1000
"""Versions over this one say how connected layers are stored."""


def claims(source: Source) -> bool:
    """Whether it begins with a version, and a .cfg of a network is beside it."""
    if source.size < _VERSIONS + 4 or int.from_bytes(source.read_at(8, 4), "little") > MAX_REVISION:
        return False
    try:
        if source.beside is not None:  # in an archive
            return _config(source.beside, source) is not None
        with Folder(source.path.parent) as folder:
            return _config(folder, source) is not None
    except CkptconvError:
        return False


def _config(folder: Folder, source: Source) -> str | None:
    """The name of the .cfg that belongs to the file, if there is one."""
    stem = source.path.stem
    found = [name for name in folder.names if name.lower().endswith(SUFFIX)]
    likely = [f"{stem}{SUFFIX}", f"{_TRAINED.sub('', stem)}{SUFFIX}"]
    name = next((name for name in likely if name in found), found[0] if len(found) == 1 else None)
    return name if name is not None and is_config(folder.open(name)) else None


def read(source: Source) -> Checkpoint:
    """Open the file: read its header and the .cfg. Raises CorruptFileError, LimitError, UnsupportedError."""
    folder = Folder.around(source)
    name = _config(folder, source)
    if name is None:
        raise UnsupportedError(
            "the .cfg of its network is not beside it", hint=f"put it there as {source.path.stem}.cfg"
        )
    if source.size < _VERSIONS + 8:
        raise _mismatch(name, "it has no weights")
    version = [int.from_bytes(source.read_at(4 * place, 4), "little", signed=True) for place in range(3)]
    width = 8 if 10 * version[0] + version[1] >= 2 and max(version[:2]) < _LARGE else 4
    seen = int.from_bytes(source.read_at(_VERSIONS, width), "little")
    config = folder.open(name)
    with located(config.path):
        layers = plan(read_config(config), version[2], transposed=max(version[:2]) > _LARGE)
    tensors, rest = _build_tensors(source, _VERSIONS + width, layers, name)
    findings = [stays_behind(f"the network of {len(layers):,} layers in {name!r}")]
    if rest:
        message = f"it ends before {rest[0].section.where} of {len(layers):,} in {name!r}, as the files of backbones do"
        findings.append(Finding("ends-early", "warning", "", message))
    facts = operator_counts(Counter(layer.section.kind for layer in layers))
    return Checkpoint(
        tensors, root={"version": version, "seen": seen, "state_dict": StateDict()}, format="darknet",
        notes=Notes(source="darknet", graph=facts), findings=tuple(findings), file=folder,
    )  # fmt: skip


def _mismatch(config: str, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"it does not fit the network in {config!r}: {what}",
        hint="put the .cfg of its own network beside it, under the same name, or copy both again",
    )


def _build_tensors(
    source: Source, at: int, layers: list[Layer], config: str
) -> tuple[dict[str, LazyTensor], list[Layer]]:
    """The tensors, by torch's order within each layer, and the layers with weights that the file lacks."""
    tensors: dict[str, LazyTensor] = {}
    stored = [layer for layer in layers if layer.slots]
    for number, layer in enumerate(stored):
        if at == source.size and tensors:
            return tensors, stored[number:]
        made: dict[str, LazyTensor] = {}
        for slot in layer.slots:
            count = prod(slot.shape)
            if count * DType.F32.bits > MAX_DIM:
                raise LimitError(f"{slot.name!r} has the shape {list(slot.shape)}")
            if at + 4 * count > source.size:
                raise _mismatch(config, f"it ends at byte {source.size:,}, within {layer.section.where}")
            info = TensorInfo.of(DType.F32, slot.shape)
            made[slot.name] = laid_out(info, ByteSpan(source, at, 4 * count), (id(source), slot.name), slot.strides)
            at += 4 * count
        parts = list(dict.fromkeys(map(_part, made)))
        tensors.update(sorted(made.items(), key=lambda item: (parts.index(_part(item[0])), *_order(item[0]))))
    if at < source.size:
        raise _mismatch(config, f"{source.size - at:,} bytes follow its last layer")
    if not tensors:
        raise _mismatch(config, "no layer of it has weights")
    return tensors, []


def _part(name: str) -> str:
    """The layer, or the part of a recurrent one, that a tensor belongs to."""
    return ".".join(name.split(".")[:-2])


def _order(name: str) -> tuple[bool, int]:
    """The place of a tensor in a layer's state_dict: the convolution before its normalization."""
    roles = ("weight", "bias", "running_mean", "running_var")
    return ".bn." in name, roles.index(name.rpartition(".")[2])
