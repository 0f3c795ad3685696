"""Large models are opened by their headers: little is read, and soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import ckptconv
from ckptconv.formats import onnx as our_onnx
from ckptconv.io.source import Source
from tests.support.stopwatch import within

from .test_values import field, varint

if TYPE_CHECKING:
    from pathlib import Path

PEAK = """
import sys
import ckptconv
ckptconv.inspect(sys.argv[1]).to_dict()
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak, *[m for m in ("onnx", "numpy", "torch") if m in sys.modules])
"""


def sparse_model(path: Path, tensors: int, each: int, nodes: int = 0) -> Path:
    """A model of F32 weights that are holes in the file."""
    parts: list[bytes | int] = []
    for i in range(nodes):
        attribute = field(5, field(1, b"axis") + b"\x18\x01\xa0\x01\x02")
        texts = [(1, b"x%d" % i), (1, b"w%d" % i), (2, b"x%d" % (i + 1)), (3, b"/net/%d/Conv" % i), (4, b"Conv")]
        parts.append(field(1, b"".join(field(number, text) for number, text in texts) + attribute))
    for i in range(tensors):
        head = b"\x08" + varint(each // 4) + b"\x10\x01" + field(8, b"w%d.weight" % i) + b"\x4a" + varint(each)
        parts += [b"\x2a" + varint(len(head) + each) + head, each]
    total = sum(part if isinstance(part, int) else len(part) for part in parts)
    with path.open("wb") as file:
        file.write(b"\x08\x0a" + field(2, b"pytorch") + b"\x3a" + varint(total))
        for part in parts:
            if isinstance(part, int):
                file.seek(part, 1)
            else:
                file.write(part)
        file.write(field(8, b"\x10\x12"))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.6 GB, none of it on the disk."""
    return sparse_model(tmp_path_factory.mktemp("large") / "m.onnx", 400, 4 << 20, 2000)


def test_a_large_model_is_opened_by_its_headers(large: Path) -> None:
    def opened() -> None:
        with Source(large) as source:
            assert our_onnx.FORMATS[0].claims_file(source)
            with our_onnx.FORMATS[0].read(source) as found:
                assert len(found) == 400
                assert source.bytes_read < 4 << 20
                last = found["w399.weight"]
                assert bytes(last.read(4 << 19, (4 << 19) + 8)) == bytes(8)

    within(0.25, opened)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc, as Linux has it")
def test_inspecting_a_large_model_takes_little_memory_and_no_numpy(large: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, str(large)], capture_output=True, text=True, check=True)
    peak, *imported = done.stdout.split()
    assert int(peak) < 64 << 10
    assert not imported


def test_past_two_gigabytes_and_four_a_model_is_still_read(tmp_path: Path) -> None:
    path = sparse_model(tmp_path / "m.onnx", 3, 2 << 30)
    with ckptconv.open(path) as found:
        assert sum(lazy.info.nbytes for lazy in found.values()) == 6 << 30
        span = found["w2.weight"].span
        assert span is not None
        assert span.offset > 4 << 30
        assert json.dumps(found.notes.to_dict())


def test_30_000_tensors_are_opened_within_a_second_or_two(tmp_path: Path) -> None:
    path = sparse_model(tmp_path / "m.onnx", 30_000, 64)

    def opened() -> None:
        with ckptconv.open(path) as found:
            assert len(found) == 30_000

    within(2, opened)
