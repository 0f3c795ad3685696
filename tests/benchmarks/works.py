"""What is measured, beside what, and the bars that it has to meet."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CKPTCONV = [sys.executable, "-m", "ckptconv"]
USUAL_SCRIPT = Path(__file__).with_name("usual_script.py")
ARROWS = {".pth": ".pth → .safetensors", ".safetensors": ".safetensors → .pth"}
OTHER = {".pth": ".safetensors", ".safetensors": ".pth"}
HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "rich"}  # none of them belongs into `--help`

PEERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "cp + sync": lambda source, target: ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)],
    "cp": lambda source, target: ["cp", str(source), str(target)],
    "usual script": lambda source, target: [sys.executable, str(USUAL_SCRIPT), str(source), str(target)],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Upper limits: our time through the peer's, seconds, MiB; None where there is none."""

    ratio: float | None = None
    seconds: float | None = None
    peak: float | None = None

    def __str__(self) -> str:
        limits = [(self.ratio, "{:.2f} ×"), (self.seconds, "{:.2f} s"), (self.peak, "{:.0f} MiB")]
        return ", ".join("≤ " + text.format(limit) for limit, text in limits if limit is not None) or "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One row of the table. `source` is the suffix of the file that goes in; `input` names its kind."""

    name: str
    title: str
    command: str = "convert"
    input: str = ""
    source: str = ".pth"
    tmpfs: bool = False
    peer: str = ""
    bars: Bars = Bars()

    @property
    def writes(self) -> bool:
        """Whether there is a target."""
        return self.command == "convert"

    def ours(self, source: Path, target: Path) -> list[str]:
        """Our command line."""
        paths = [source, target][: 2 if self.writes else 1] if self.input else []
        return [*CKPTCONV, self.command, *map(str, paths)]

    def peers(self, source: Path, target: Path) -> list[str] | None:
        """The peer's command line."""
        return PEERS[self.peer](source, target) if self.peer else None


def both_ways(name: str, title: str, input: str, *, peer: str = "", tmpfs: bool = False, bars: Bars) -> list[Work]:
    """`convert` from .pth and back to it."""
    return [
        Work(
            name=f"{name}-{'to' if source == '.pth' else 'from'}-safetensors",
            title=f"convert {title}, {arrow}" + (f", beside {peer}" if peer else ""),
            input=input,
            source=source,
            tmpfs=tmpfs,
            peer=peer,
            bars=bars,
        )
        for source, arrow in ARROWS.items()
    ]


def inspects(name: str, title: str, input: str, seconds: float) -> list[Work]:
    """`inspect` of both formats."""
    return [
        Work(
            name=f"inspect-{name}-{source[1:]}",
            title=f"inspect {title} {source}",
            command="inspect",
            input=input,
            source=source,
            bars=Bars(seconds=seconds),
        )
        for source in ARROWS
    ]


def all_works(size: str) -> list[Work]:
    """Every work, those on one input side by side; `size` is the large input's."""
    memory = Bars(peak=64)
    disk, tmpfs = Bars(ratio=1.10, peak=64), Bars(ratio=1.25, peak=64)  # a tmpfs hides none of our own cost
    return [
        *both_ways("disk", f"{size} on disk", "llama", peer="cp + sync", bars=disk),
        *both_ways("tmpfs", f"{size} on a tmpfs", "llama", peer="cp", tmpfs=True, bars=tmpfs),
        *both_ways("script", f"{size} on disk", "llama", peer="usual script", bars=memory),
        *inspects("large", size, "llama", 0.25),
        *both_ways("one-tensor", "one tensor of 1 GiB", "one-tensor", peer="cp + sync", bars=memory),
        *both_ways("transposed", "one transposed tensor of 512 MiB", "transposed", peer="cp + sync", bars=memory),
        *inspects("many", "30,000 tensors,", "many-tensors", 1.0),
        *both_ways("small", "2 MB", "small", peer="usual script", bars=Bars(seconds=0.30)),
        Work(name="help", title="`--help`", command="--help", bars=Bars(seconds=0.12)),
    ]
