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
from tests.hostile.others import EVIL, MAGIC, OLD, legacy, tar
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
        Case("an agent's data beside another checkpoint", "zip", agents_data(), hostile=True, suffix=".zip"),
        Case("a stack of pickles that calls as a tar archive", "tar", tar_of_pickles(), hostile=True),
        Case("a stack of pickles that is an archive, too", "tar", zip_after(legacy(OLD)), hostile=True),
        Case("a call after the storages", "legacy", legacy(OLD) + EVIL, "would run code", code, False, True),
    ]
