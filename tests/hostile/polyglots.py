"""Stacks of pickles that are something else as well: to torch.load, to Python's zipfile, to who loads them twice."""

from __future__ import annotations

import base64
import io
import json
import pickle
import struct
import tarfile
import zipfile

import numpy as np

from tests.hostile.cases import CODES, SMALL, Case, checkpoint
from tests.hostile.others import EVIL, MAGIC, OLD, field, legacy, model, tar, weight
from tests.support.craft import FOUR_FLOATS, state_dict, tensor, zip_bytes


def tar_of_pickles() -> bytes:
    """A stack of pickles that is a tar archive from its first byte: the third has the rest of the header as bytes."""
    numbers = b"".join(pickle.dumps(one, 2) for one in (MAGIC, 1001))
    start = numbers + b"\x80\x02B" + struct.pack("<I", tarfile.BLOCKSIZE - len(numbers) - 7) + b"x"
    rest = b"0}." + legacy(OLD)[legacy(OLD).index(OLD) :]
    info = tarfile.TarInfo()
    info.size = len(rest)
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[: len(start)] = start
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + rest.ljust(-(-len(rest) // 512) * 512, b"\0")
    return data + tar({"storages": EVIL, "tensors": b"", "pickle": EVIL})


def zip_after(data: bytes) -> bytes:
    """A file with an archive behind it whose offsets count from the file's start."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("data", b"{}")
    return buffer.getvalue()


def array_of_objects() -> bytes:
    """An .npy whose elements are a pickle that calls."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return buffer.getvalue() + EVIL


def agents_data() -> bytes:
    """An archive of a checkpoint, and of what Stable-Baselines3 unpickles before it looks for the policy."""
    data = {"policy_class": {":type:": "x", ":serialized:": base64.b64encode(EVIL).decode()}}
    return zip_bytes([("data", json.dumps(data).encode()), ("model.pth", checkpoint(state_dict(w=tensor())))])


def named_in_tar() -> bytes:
    """A tar archive of a checkpoint, and of an empty member whose name is a pickle."""
    return tar({"cos\nsystem\n(S'touch pwned'\ntR.": b"", "m.pth": checkpoint(state_dict(w=tensor()))})


def skipped_model() -> bytes:
    """An ONNX model between two fields that nobody knows: the first is an opcode whose text goes up to the second."""
    whole = model(weight(field(9, bytes(16))))
    return b"\x55" + bytes([len(whole) + 5]) + b"xyz" + whole + b"\x7a" + bytes([len(EVIL)]) + EVIL


def skipped_header() -> bytes:
    """A safetensors file whose header is one text after the other to a pickle, which goes on among the elements."""
    size = 0x42 + (120 << 8)  # an opcode, and the bytes that it takes
    entry = b'{"w":{"dtype":"F32","shape":[64],"data_offsets":[0,256]},"__metadata__":{"format":"pt","x":"'
    text = entry + b"a" * (120 - 3 - len(entry))
    while size - len(text) > 128:
        text += b"U " + b"b" * 32
    text += b"U~" + b"c" * (size - len(text) - 5) + b'"}}'
    over = text.rindex(b"U~") + 2 + 126 - size
    return struct.pack("<Q", size) + text + (bytes(over) + EVIL).ljust(256, b"\0")


SAVED = [*SMALL, ("a/data.pkl", state_dict(w=tensor()))]


def cases() -> list[Case]:
    """All of them."""
    code = CODES["would run code"]
    return [
        Case(
            "an archive of torch's that numpy loads",
            "zip",
            zip_bytes([*SAVED, ("a/data/0", array_of_objects())]),
            hostile=True,
            suffix=".npz",
            loader="numpy",
        ),
        Case(
            "an archive of torch's with an array of numpy's",
            "zip",
            zip_bytes([*SAVED, ("a/data/0", FOUR_FLOATS), ("a/x.npy", array_of_objects())]),
            hostile=True,
            loader="numpy",
        ),
        Case("a tar archive that is a pickle", "tar", named_in_tar(), live=True, hostile=True, suffix=".pkl"),
        Case("a model that is a pickle", "onnx", skipped_model(), live=True, hostile=True),
        Case("a safetensors file that is a pickle", "safetensors", skipped_header(), live=True, hostile=True),
        Case("an agent's data beside another checkpoint", "zip", agents_data(), hostile=True, suffix=".zip"),
        Case("a stack of pickles that calls as a tar archive", "tar", tar_of_pickles(), hostile=True),
        Case("a stack of pickles that is an archive, too", "tar", zip_after(legacy(OLD)), hostile=True),
        Case("a call after the storages", "legacy", legacy(OLD) + EVIL, "would run code", code, False, True),
    ]
