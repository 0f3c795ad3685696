"""Memory does not grow with what is converted, also where tensors are gathered, and by several threads."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

PEAK = """
import os, sys
os.cpu_count = lambda: 4
import ckptconv
ckptconv.convert(*sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_many_transposed_tensors_take_no_more_than_one(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.zeros(4096, 1024).t() for i in range(8)}, tmp_path / "a.pth")
    line = [sys.executable, "-c", PEAK, str(tmp_path / "a.pth"), str(tmp_path / "b.safetensors")]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10
