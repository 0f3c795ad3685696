"""Measures what is done to whole models beside its peers: ``python tests/benchmarks/models.py [--only LoRA]``.

Whole processes, ours and the peer in turn, into fresh files on a disk. CPU time is what is compared, since these works
compute; the medians of the pairs. It takes 10 GB of disk. The merging of a LoRA needs `peft` and `accelerate` as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from measure import MIB, remove, run, warm
from works import CKPTCONV

INPUTS, USUAL = (str(Path(__file__).with_name(name)) for name in ("model_inputs.py", "usual_models.py"))

TO_GGUF = ("--translate", "to-gguf", "--dtype")

WORKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "BF16 → GGUF, F16": ("llama", (*TO_GGUF, "F16"), ("to-gguf", "llama", "F16"), "t.gguf"),
    "BF16 → GGUF, Q8_0": ("llama", (*TO_GGUF, "Q8_0"), ("to-gguf", "llama", "Q8_0"), "t.gguf"),
    "BF16 → GGUF, Q4_K_M": ("llama", (*TO_GGUF, "Q4_K_M"), (), "t.gguf"),
    "a LoRA merged into BF16": ("llama", ("--lora", "lora"), ("lora", "llama", "lora"), "merged"),
    "FP8 in blocks → BF16": ("fp8", ("--dequantize",), ("fp8", "fp8/model.safetensors"), "t.safetensors"),
}
"""By title: what is converted and how, what the peer is told, and the target."""


def row(title: str, folder: Path, pairs: int) -> str:
    """A line of the table."""
    source, options, peer, target = WORKS[title]
    path, ours = folder / target, folder / ("t.safetensors" if target == "merged" else target)

    def placed(words: tuple[str, ...]) -> list[str]:
        return [str(folder / word) if (folder / word).exists() else word for word in words]

    command = [*CKPTCONV, "convert", str(folder / source), str(ours), *placed(options)]
    usual = [sys.executable, USUAL, peer[0], *placed(peer[1:]), str(path)] if peer else None
    mine: list[Any] = []
    theirs: list[Any] = []
    for number in range(pairs + 1):
        turn = [(command, ours, mine), *([(usual, path, theirs)] if usual else [])]
        for line, made, found in turn if number % 2 else reversed(turn):
            warm(folder / source)
            done = run(line)
            remove(made)
            if number:  # the first brings the programs into the page cache
                found.append(done)
    cpu = [f"{median(one.cpu for one in some):.1f} s" for some in (mine, theirs) if some]
    held = [f"{max(one.anonymous for one in some) / MIB:,.0f}" for some in (mine, theirs) if some]
    ratio = f"{median(a.cpu / b.cpu for a, b in zip(mine, theirs, strict=True)):.2f}" if theirs else "–"
    return f"| {title} | {' | '.join((*cpu, '–')[:2])} | {ratio} | {' | '.join((*held, '–')[:2])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", default="", metavar="PART", help="of a work's title")
    parser.add_argument("--workdir", type=Path, default=Path(tempfile.gettempdir()), help="on disk (%(default)s)")
    options = parser.parse_args()
    titles = [title for title in WORKS if options.only in title]
    print("| work | CPU time | peer's | ratio | MiB of memory | peer's |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(dir=options.workdir) as made:
        folder = Path(made)
        for kind in dict.fromkeys(WORKS[title][0] for title in titles):
            needed = [kind, *(["lora"] if kind == "llama" else [])]
            for one in needed:
                run([sys.executable, INPUTS, one, str(folder / one)])
            for title in titles:
                if WORKS[title][0] == kind:
                    print(row(title, folder, options.pairs), flush=True)
            for one in needed:
                remove(folder / one)


if __name__ == "__main__":
    main()
