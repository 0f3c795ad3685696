"""What a pickle that breaks off has named by then: Python's own unpickler says, which imports it."""

from __future__ import annotations

import io
import pickle
import random
from typing import TYPE_CHECKING

import pytest

from ckptconv.formats.torch.pickle.broken import names_something
from ckptconv.io.source import Source
from tests.hostile.cases import SYSTEM

if TYPE_CHECKING:
    from pathlib import Path


class Asked(pickle.Unpickler):
    """An unpickler that keeps what it is asked to import."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.named: list[str] = []

    def find_class(self, module: str, name: str) -> object:
        self.named.append(f"{module}.{name}")
        return print


def named(data: bytes) -> list[str]:
    asked = Asked(data)
    try:
        asked.load()
    except Exception:  # whatever it stumbles over
        return asked.named
    return asked.named


def is_reported(data: bytes, path: Path) -> bool:
    path.write_bytes(data)
    with Source(path) as source:
        return names_something(source)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + SYSTEM,
        SYSTEM + b"\xff",
        b"I1\n0" + SYSTEM,
        b"(S'" + b"x" * 10_000 + b"'\n" + SYSTEM,
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\xff",
        b"(ios\nsystem\n\xff",
        b"\x80\x02X\x10\x27\x00\x00" + b"a" * 10_000 + SYSTEM,
        b"\x80\x05\x95\xff\xff\x00\x00\x00\x00\x00\x00" + SYSTEM,
        b"cos\r\nsystem\r\n\xff",
    ],
)
def test_what_names_something_is_reported(data: bytes, tmp_path: Path) -> None:
    assert is_reported(data, tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80", b"c", b"\x93", b"N.", b"\x80\x02]q\x00.", b"X\xff\xff\xff\x7f" + SYSTEM, bytes(100)],
)
def test_what_names_nothing_is_not(data: bytes, tmp_path: Path) -> None:
    assert not named(data)
    assert not is_reported(data, tmp_path / "a.pkl")


def test_a_text_that_starts_as_a_global_does_names_no_module(tmp_path: Path) -> None:
    assert named(b"c is for\nweights\n") == [" is for.weights"]
    assert not is_reported(b"c is for\nweights\n", tmp_path / "a.bin")


def test_nothing_that_pythons_unpickler_imports_is_missed(tmp_path: Path) -> None:
    drawn, imported = random.Random(3), 0
    pieces = [
        b"\x80\x02",
        SYSTEM,
        b"N",
        b"0",
        b"(",
        b"I1\n",
        b"S'a'\n",
        b"\x8c\x02os",
        b"\x93",
        b"}",
        b"K\x01",
        b"\xff",
        b"X\x01\0\0\0a",
    ]
    for _ in range(1500):
        data = b"".join(drawn.choices(pieces, k=drawn.randint(1, 8)))
        if named(data):
            imported += 1
            assert is_reported(data, tmp_path / "a.pkl"), data
    assert imported > 100
