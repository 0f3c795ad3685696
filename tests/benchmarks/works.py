"""What is measured, beside what, and the bars that it has to meet."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CKPTCONV = [sys.executable, "-m", "ckptconv"]
USUAL_SCRIPT, USUAL_DIFF, USUAL_HDF5 = (
    Path(__file__).with_name(f"usual_{name}.py") for name in ("script", "diff", "hdf5")
)
ARROWS = {".pth": ".pth → .safetensors", ".safetensors": ".safetensors → .pth"}
OTHER = {".pth": ".safetensors", ".safetensors": ".pth"}
HEAVY = {"torch", "onnx", "onnxruntime", "numpy", "rich"}  # none of them belongs into `--help`

PEERS: dict[str, Callable[[Path, Path], list[str]]] = {
    "cp + sync": lambda source, target: ["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", str(source), str(target)],
    "cp": lambda source, target: ["cp", str(source), str(target)],
    "cp -r + sync": lambda source, target: [
        "sh",
        "-c",
        'cp -r "$1" "$2" && sync "$2"/*',
        "sh",
        str(source),
        str(target),
    ],
    "cmp": lambda source, other: ["cmp", str(source), str(other)],
    "usual diff script": lambda source, other: [sys.executable, str(USUAL_DIFF), str(source), str(other)],
    "h5py": lambda source, _: [sys.executable, str(USUAL_HDF5), "list", str(source)],
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
    """One row of the table. `input` names the kind of the file that goes in.

    source:  its suffix, or "/" for a folder of shards; h5py writes an ".h5", and we the others that torch does not.
    target:  the suffix of what comes out, or "/"; "": the other of .pth and .safetensors.
    options: the command's.
    second:  what it is compared with: a "twin", a "changed" one with other values, a "renamed" one.
    good:    exit codes that it may end with.
    """

    name: str
    title: str
    command: str = "convert"
    input: str = ""
    source: str = ".pth"
    target: str = ""
    options: tuple[str, ...] = ()
    second: str = ""
    good: tuple[int, ...] = (0,)
    tmpfs: bool = False
    peer: str = ""
    bars: Bars = Bars()

    @property
    def writes(self) -> bool:
        """Whether there is a target."""
        return self.command == "convert"

    def ours(self, source: Path, target: Path) -> list[str]:
        """Our command line; `target` is the second file where two are compared."""
        paths = [source, target][: 2 if self.writes or self.second else 1] if self.input else []
        return [*CKPTCONV, self.command, *map(str, paths), *self.options]

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


def whiles(size: str) -> list[Work]:
    """What people do while they convert."""
    split, bars = ("--shard-size", "1GB"), Bars(ratio=1.15, peak=128)
    beside = ", beside cp + sync of the source"
    st = ".safetensors"
    return [
        Work(name="cast", title=f"convert {size} --dtype BF16, from F32{beside}", input="wide-llama",
             source=st, target=st, options=("--dtype", "BF16"), peer="cp + sync", bars=Bars(ratio=1.5, peak=128)),
        Work(name="split", title=f"convert {size} --shard-size 1GB{beside}", input="llama", source=st, target="/",
             options=split, peer="cp + sync", bars=bars),
        Work(name="merge", title=f"convert {size} from shards of 1 GB into one file{beside}", input="llama", source="/",
             target=st, peer="cp -r + sync", bars=bars),
        Work(name="reshard", title=f"convert {size} from shards of 1 GB --shard-size 700MB{beside}", input="llama",
             source="/", target="/", options=("--shard-size", "700MB"), peer="cp -r + sync", bars=bars),
    ]  # fmt: skip


def compares(size: str) -> list[Work]:
    """`diff` beside cmp of two equal files of that size."""
    common = {"command": "diff", "source": ".safetensors", "peer": "cmp"}
    other = f"diff two {size} .safetensors, all values other, beside cmp of equal ones"
    return [
        Work(name="diff-equal", title=f"diff two equal {size} .safetensors, beside cmp of them", input="llama",
             second="twin", bars=Bars(ratio=1.0, peak=256), **common),  # type: ignore[arg-type]
        Work(name="diff-changed-bf16", title=f"{other}, BF16", input="trained-llama",
             second="changed", good=(1,), bars=Bars(ratio=3.0, peak=256), **common),  # type: ignore[arg-type]
        Work(name="diff-changed-f32", title=f"{other}, F32", input="wide-llama",
             second="changed", good=(1,), bars=Bars(ratio=3.0, peak=256), **common),  # type: ignore[arg-type]
        Work(name="diff-many", title="diff two of 30,000 tensors, all of them renamed, beside the usual script for it",
             command="diff", input="many-tensors", second="renamed", good=(1,), peer="usual diff script",
             bars=Bars(seconds=3.0)),
    ]  # fmt: skip


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
        Work(
            name="inspect-many-h5",
            title="inspect 30,000 tensors, .h5 by h5py, beside h5py's own list of them",
            command="inspect",
            input="many-tensors",
            source=".h5",
            peer="h5py",
            bars=Bars(ratio=1.0),
        ),
        *both_ways("small", "2 MB", "small", peer="usual script", bars=Bars(seconds=0.30)),
        *whiles(size),
        *compares(size),
        Work(name="help", title="`--help`", command="--help", bars=Bars(seconds=0.12)),
    ]
