"""Measures loading a checkpoint onto a device beside torch's and safetensors' own ways.

``python tests/benchmarks/device.py [--device cuda] [--size 1GiB] [--pairs 5]``

Ours and the peer in turn, in one process, from files in the page cache, after one round that is not counted; the
median of the pairs' ratios, below 1 where ours is faster. Exits with 2 where the device is not there. On the CPU
safetensors maps the file and reads nothing yet, so that its row says little there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from run import size_in_bytes
from safetensors.torch import load_file, save_file

import ckptconv

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, torch.Tensor]


def network(nbytes: int) -> State:
    """A state_dict of about that size: matrices of 64 MiB, a large one, and a thousand small vectors."""
    state = {f"norms.{i}": torch.rand(1024) for i in range(1000)}
    matrices = max(1, nbytes // (64 << 20))
    state |= {f"layers.{i}.weight": torch.rand(4096, 4096) for i in range(matrices)}
    return state


def ours(path: Path, device: str) -> State:
    """As ckptconv does it."""
    with ckptconv.open(path) as checkpoint:
        return checkpoint.to_torch(device)


PEERS: dict[str, tuple[str, Callable[[Path, str], State]]] = {
    "torch.load(map_location)": (".pth", lambda path, device: torch.load(path, map_location=device, weights_only=True)),
    "torch.load(mmap=True).to()": (
        ".pth",
        lambda path, device: {
            name: tensor.to(device, copy=True)
            for name, tensor in torch.load(path, mmap=True, weights_only=True).items()
        },
    ),
    "safetensors.torch.load_file(device)": (".safetensors", lambda path, device: load_file(path, device=device)),
}


def seconds(load: Callable[[Path, str], State], path: Path, device: str) -> float:
    """How long it takes until everything is there."""
    started = time.perf_counter()
    state = load(path, device)
    if device != "cpu":
        torch.cuda.synchronize()
    taken = time.perf_counter() - started
    del state
    return taken


def measure(path: Path, device: str, peer: Callable[[Path, str], State], pairs: int) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer's, and the median of the pairs' ratios."""
    times = [(seconds(ours, path, device), seconds(peer, path, device)) for _ in range(pairs + 1)][1:]
    mine, theirs = zip(*times, strict=True)
    return statistics.median(mine), statistics.median(theirs), statistics.median(a / b for a, b in times)


def main() -> int:
    """Print a row for each peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="1GiB")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured (--device cpu measures loading into memory)", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "CPU"
    print(f"{name}, torch {torch.__version__}, {options.size}, medians of {options.pairs} pairs\n")
    print("| peer | ours | peer | ratio |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        state = network(size_in_bytes(options.size))
        torch.save(state, Path(folder) / "a.pth")
        save_file(state, Path(folder) / "a.safetensors")
        del state
        for peer, (suffix, load) in PEERS.items():
            mine, theirs, ratio = measure(Path(folder) / f"a{suffix}", options.device, load, options.pairs)
            print(f"| {peer} | {mine:.3f} s | {theirs:.3f} s | {ratio:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
