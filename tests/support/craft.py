"""Archives assembled by hand: a pickle and its records in a zip, as torch.save lays them out, or nearly so."""

from __future__ import annotations

import io
import pickle
import zipfile
from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SMALL_RECORDS = {"byteorder": b"little", "version": b"3\n"}


def archive(
    path: Path,
    data_pkl: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    extra: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    root: str = "archive",
) -> Path:
    """Write a checkpoint archive with Python's zipfile, so that CRCs are right and headers agree."""
    records = {"data.pkl": data_pkl, **{f"data/{key}": data for key, data in (storages or {}).items()}}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in {**SMALL_RECORDS, **records, **(extra or {})}.items():
            file.writestr(f"{root}/{name}", data)
    return path


def records_of(path: Path) -> dict[str, bytes]:
    """The records of an archive by name, without its folder."""
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def repacked(source: Path, target: Path, *, method: int = zipfile.ZIP_STORED, **changed: bytes) -> Path:
    """The same archive packed again, with some records replaced (`data_pkl` for data.pkl)."""
    changes = {name.replace("data_pkl", "data.pkl"): data for name, data in changed.items()}
    with zipfile.ZipFile(target, "w", method) as file:
        for name, data in {**records_of(source), **changes}.items():
            file.writestr(f"archive/{name}", data)
    return target


def saved(path: Path, value: object, **options: object) -> Path:
    """Call torch.save, and return the path."""
    import torch

    torch.save(value, path, **options)  # type: ignore[arg-type]
    return path


def text(value: str) -> bytes:
    """A string in a pickle."""
    raw = value.encode("utf-8")
    return b"X" + pack("<I", len(raw)) + raw


def tensor(
    key: str = "0",
    numel: int = 4,
    *,
    offset: bytes = b"K\x00",
    size: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    storage: str = "FloatStorage",
    device: str = "cpu",
) -> bytes:
    """A pickled tensor: by default, the four floats of storage "0"."""
    held = bare_storage(key, numel, storage=storage, device=device)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def bare_storage(key: str = "0", numel: int = 4, *, storage: str = "FloatStorage", device: str = "cpu") -> bytes:
    """A pickled storage, without a tensor that views it."""
    return b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text(device) + _int(numel) + b"tQ"


def state_dict(**entries: bytes) -> bytes:
    """A whole pickle: a dict of these values, each given as opcodes."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def _int(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


FOUR_FLOATS = pack("<4f", 1.0, 2.0, 3.0, 4.0)


def zip_bytes(entries: list[tuple[str, bytes]]) -> bytes:
    """A zip with these entries, repeated names included."""
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore", UserWarning)
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()
