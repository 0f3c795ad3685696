"""The comparison that most people write, as the benchmarks' peer: ``python usual_diff.py A.pth B.pth``."""

from __future__ import annotations

import sys

import torch


def main(a: str, b: str) -> int:
    """Say which tensors differ, in the order of both files; exit with 1 where some do."""
    one, other = (torch.load(path, weights_only=True) for path in (a, b))
    names = [name for name, x, y in zip(one, one.values(), other.values(), strict=True) if not torch.equal(x, y)]
    print("\n".join([*names, f"{len(names)} differ"]))
    return int(bool(names))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
