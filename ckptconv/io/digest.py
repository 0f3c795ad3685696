"""The content digest: a hash of a checkpoint's contents that does not depend on the container.

It covers names, element types, shapes, values, ties and typed metadata. It leaves out the container, the order of
tensors, sharding, strides and bookkeeping. Anyone can recompute it:

    one line for each tensor, sorted by name in UTF-8:
        ["NAME","DTYPE",[SHAPE…],"xxh3-128 of its little-endian C-order bytes, in hexadecimal"]
    one line for each group of tied names, sorted:   ["tie",["NAME","NAME"…]]      (names sorted)
    one line for each quantized or sparse tensor, sorted:   ["composite","NAME",{…}]    (as the record has it, sorted)
    one line for the metadata, unless it is empty:   ["metadata",{…}]      (as the record spells it, keys sorted)

Each line is JSON without spaces, non-ASCII characters escaped, and ends in a line feed. The digest is ``xxh3-128:``
and the xxh3-128 of these lines, in hexadecimal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ckptconv.core.spelling import canonical, dumps
from ckptconv.io.checksum import CHUNK, ContentHash
from ckptconv.io.stream import chunks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress
    from ckptconv.core.tensor import LazyTensor

PREFIX = "xxh3-128:"
PLACEHOLDER = PREFIX + "0" * 32
"""A placeholder of the same length, which is replaced by the digest once all bytes are written."""


def content_hash(tensor: LazyTensor) -> str:
    """The hash of a tensor's image. Reads all of it, in constant memory."""
    content = ContentHash()
    for chunk in chunks(tensor, memoryview(bytearray(CHUNK))):
        content.update(chunk)
    return content.hexdigest()


def combine(checkpoint: Checkpoint, hashes: Mapping[str, str]) -> str:
    """The digest of a checkpoint, from the content hashes of all its tensors by name, including tied ones."""
    total = ContentHash()

    def line(*cells: object) -> None:
        total.update((dumps(list(cells)) + "\n").encode("ascii"))

    tensors = checkpoint.all_tensors
    for name in sorted(tensors, key=_utf8):
        info = tensors[name].info
        line(name, info.dtype.name, list(info.shape), hashes[name])
    for names in sorted((sorted(names, key=_utf8) for names in checkpoint.ties), key=lambda names: _utf8(names[0])):
        line("tie", names)
    for name in sorted(checkpoint.composites, key=_utf8):
        line("composite", name, json.loads(canonical(checkpoint.composites[name].to_dict())))
    if metadata := checkpoint.metadata:
        line("metadata", json.loads(canonical(metadata)))
    return PREFIX + total.hexdigest()


def digest(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """The content digest of an open checkpoint. Reads all tensors, tied ones once."""
    tensors = checkpoint.all_tensors
    total = sum(tensor.info.nbytes for tensor in tensors.values())
    seen: dict[object, str] = {}
    hashes: dict[str, str] = {}
    done = 0
    for name, tensor in tensors.items():
        key = tensor.identity(name)
        if key not in seen:
            seen[key] = content_hash(tensor)
        hashes[name] = seen[key]
        done += tensor.info.nbytes
        if progress is not None:
            progress(done, total)
    return combine(checkpoint, hashes)


def _utf8(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
