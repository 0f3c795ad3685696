"""Memory does not grow with what is converted, also where tensors are gathered, and by several threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from pathlib import Path

READS_PROC = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc, as Linux has it")

PEAK = """
import os, sys
os.cpu_count = lambda: 4
import ckptconv
ckptconv.convert(*sys.argv[1:3], edits=ckptconv.Edits(dtype=sys.argv[3:]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@READS_PROC
def test_many_transposed_tensors_take_no_more_than_one(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.zeros(4096, 1024).t() for i in range(8)}, tmp_path / "a.pth")
    assert peak(tmp_path / "a.pth", tmp_path / "b.safetensors") < 64 << 10


@READS_PROC
@pytest.mark.parametrize("turned", [False, True])
def test_a_large_tensor_is_not_held_whole_while_it_is_quantized(tmp_path: Path, turned: bool) -> None:
    whole = torch.zeros(4096, 12288)
    torch.save({"w": whole.t() if turned else whole}, tmp_path / "a.pth")  # 192 MiB
    assert peak(tmp_path / "a.pth", tmp_path / "b.gguf", "Q8_0") < (140 if turned else 80) << 10


@READS_PROC
def test_a_large_weight_is_not_held_whole_for_what_all_of_it_has_in_common(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(4096, 8192, dtype=torch.float16)}, tmp_path / "a.pth")  # 64 MiB
    script = PEAK.replace("dtype=sys.argv[3:]", "quantize=sys.argv[3:]")
    assert peak(tmp_path / "a.pth", tmp_path / "b.safetensors", "nf4-double", script=script) < 80 << 10


@READS_PROC
@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "npz"])
def test_a_small_tensor_takes_two_kilobytes(tmp_path: Path, suffix: str) -> None:
    """Read, planned and written; the other library's check of the file counts as well."""
    peaks = []
    for count in (2_000, 22_000):
        names = [f"model.layers.{i // 1000}.block_sparse_moe.experts.{i % 1000}.w1.weight" for i in range(count)]
        save_file(dict.fromkeys(names, np.zeros((8, 8), np.float16)), tmp_path / "a.safetensors")
        peaks.append(peak(tmp_path / "a.safetensors", tmp_path / f"{count}.{suffix}"))
    assert (peaks[1] - peaks[0]) * 1024 / 20_000 < 2_200


def peak(source: Path, target: Path, *dtype: str, script: str = PEAK) -> int:
    """The most memory, in KiB, that converting one into the other takes."""
    line = [sys.executable, "-c", script, str(source), str(target), *dtype]
    return int(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
