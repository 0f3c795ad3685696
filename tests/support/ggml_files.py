"""ggml files that predate GGUF, assembled by hand."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

F32, F16, Q4_0 = 0, 1, 2
ONE_TWO = pack("<2f", 1, 2)


def tokens(texts: Iterable[bytes], *, scored: bool = False) -> bytes:
    return b"".join(pack("<i", len(text)) + text + (pack("<f", 0.5) if scored else b"") for text in texts)


def tensor(name: str, dims: Sequence[int], code: int, data: bytes, *, at: int | None = None) -> bytes:
    """A tensor. `dims`: innermost first; `at`: its position, if the format aligns data."""
    head = pack(f"<3i{len(dims)}i", len(dims), len(name), code, *dims) + name.encode()
    return head + (b"" if at is None else bytes(-(at + len(head)) % 32)) + data


def llama(magic: bytes, version: int | None, *, ftype: int = 0, code: int = F32, data: bytes = ONE_TWO) -> bytes:
    """A llama.cpp file with one tensor, of two elements or of one block."""
    head = magic + (b"" if version is None else pack("<i", version)) + pack("<7i", 3, 2, 256, 1, 1, 2, ftype)
    head += tokens([b"<unk>", b"\xff", b"c"], scored=version is not None)
    dims = [2] if code in (F32, F16) else [32]
    return head + tensor("norm.weight", dims, code, data, at=len(head) if magic == b"tjgg" else None)
