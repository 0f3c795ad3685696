"""Stacks of pickles that are something else as well: to torch.load, to Python's zipfile, to who loads them twice."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile

from tests.hostile.cases import CODES, Case
from tests.hostile.others import EVIL, MAGIC, OLD, legacy, tar


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


def cases() -> list[Case]:
    """All of them."""
    code = CODES["would run code"]
    return [
        Case("a stack of pickles that calls as a tar archive", "tar", tar_of_pickles(), hostile=True),
        Case("a stack of pickles that is an archive, too", "tar", zip_after(legacy(OLD)), hostile=True),
        Case("a call after the storages", "legacy", legacy(OLD) + EVIL, "would run code", code, False, True),
    ]
