"""Checkpoints in the tar layout of torch before 0.1.12, assembled by hand, as no current torch writes it."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import torch

from tests.support.nodes import image

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOL = 2

STORAGE_CLASSES = {
    torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage,
    torch.int64: torch.LongStorage, torch.int32: torch.IntStorage, torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage, torch.uint8: torch.ByteStorage,
}  # fmt: skip


def tar_saved(path: Path, value: object, *, views: bool = False, protocol: int = PROTOCOL) -> Path:
    """Write `value` as torch 0.1 did. `views`: list each storage as a view of one with 2 elements before and 3 more."""
    tensors: dict[int, torch.Tensor] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, torch.Tensor):
                tensors[id(obj)] = obj
                return str(id(obj))
            if isinstance(obj, type) and issubclass(obj, torch.nn.Module):
                return obj, "net.py", ""
            return None

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(value)
    return tar_file(
        path,
        {
            "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True, "type_sizes": {}}, protocol),
            "pickle": buffer.getvalue(),
            "tensors": tensors_member(tensors, protocol),
            "storages": storages_member(tensors, protocol, views=views),
        },
    )


def tar_file(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    """Write a tar archive. A fractional time gives each member an extended header, as torch's archives had."""
    with tarfile.open(path, "w:", format=options.pop("format", tarfile.PAX_FORMAT)) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1480000000.25
            for key, changed in options.items():
                setattr(info, key, changed)
            file.addfile(info, io.BytesIO(data))
        end = file.offset + 2 * tarfile.BLOCKSIZE
    with path.open("r+b") as shorter:  # remove the zeros that pad a record to 20 blocks
        shorter.truncate(end)
    return path


def key_of(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def tensors_member(tensors: dict[int, torch.Tensor], protocol: int = PROTOCOL) -> bytes:
    parts = [pickle.dumps(len(tensors), protocol)]
    for key, tensor in tensors.items():
        parts.append(pickle.dumps((key, key_of(tensor), torch.FloatTensor), protocol))
        numbers = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        parts.append(struct.pack(f"<i4x{len(numbers)}q", tensor.dim(), *numbers))
    return b"".join(parts)


def storages_member(tensors: dict[int, torch.Tensor], protocol: int = PROTOCOL, *, views: bool = False) -> bytes:
    storages = {key_of(tensor): tensor for tensor in tensors.values()}
    parts = [pickle.dumps(len(storages), protocol)]
    listed = []
    for key, tensor in storages.items():
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        data, root = image(whole), key
        if views:
            data, root = bytes(2 * whole.itemsize) + data + bytes(3 * whole.itemsize), key + 1
            listed.append((key, root, 2, whole.numel()))
        parts.append(pickle.dumps((root, "cpu", STORAGE_CLASSES[tensor.dtype]), protocol))
        parts.append(struct.pack("<q", len(data) // whole.itemsize) + data)
    return b"".join([*parts, pickle.dumps(listed, protocol)])
