"""What the files of a sharded set are called (`shards` has the layout); nothing is read for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INDEX_SUFFIX = ".index.json"
INDEX = re.compile(r".+\.index(\.[^.]+)?\.json")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})(?P<suffix>\..+)")
ALONE = re.compile(r"(model|pytorch_model|diffusion_pytorch_model|adapter_model)(\.[^.]+)?\.(safetensors|bin)")
"""What Hugging Face's libraries call a file that holds all weights of a folder."""

PICKLED_COPIES = {
    "model": "pytorch_model", "diffusion_pytorch_model": "diffusion_pytorch_model", "adapter_model": "adapter_model",
}  # fmt: skip
"""What the pickle of the same weights is called, by the name of the safetensors file."""

ADAPTERS = "adapters.safetensors"
"""What mlx-lm calls the last of an adapter's, beside those of earlier steps."""

SLICES = re.compile(r"shard-(?P<shard>\d{5,9})-model-(?P<part>\d{5,9})-of-(?P<parts>\d{5,9})\.safetensors")
"""What torch.distributed.checkpoint calls the files of slices (`safetensors.slices`), which no index lists."""

RANK = re.compile(r"(?P<stem>(model-)?rank-?)(?P<rank>\d{1,6})(?P<rest>(-part-\d+)?\.safetensors)")
"""What TensorRT-LLM (``rank0.safetensors``) and vLLM's sharded_state (``model-rank-0-part-0.safetensors``) call what
each process has: slices, and nothing says how they were cut.
"""

BINARIES = (".bin", ".pth", ".pt", ".ckpt")


def is_shard(name: str) -> bool:
    """Whether a file is called as shards are."""
    return SHARD.fullmatch(name) is not None and name.lower().endswith((".safetensors", *BINARIES))


def whole_set(names: Iterable[str]) -> list[str]:
    """The safetensors shards of the one set among the files of a folder, in their order; [] where some are missing, or
    an index is there, whatever is in it.
    """
    listed = list(names)
    called = {name: shard for name in listed if (shard := SHARD.fullmatch(name)) and is_shard(name)}
    sets = {(shard["stem"], shard["count"], shard["suffix"]) for shard in called.values()}
    if len(sets) != 1 or any(map(INDEX.fullmatch, listed)):
        return []
    found = sorted(called, key=lambda name: int(called[name]["number"]))
    numbers = [int(called[name]["number"]) for name in found]
    whole = len(found) == int(called[found[0]]["count"]) and numbers == list(range(1, len(found) + 1))
    return found if whole and found[0].endswith(".safetensors") and not SLICES.fullmatch(found[0]) else []


def alone(path: Path) -> tuple[Finding, ...]:
    """A warning where a file that is read by itself is called as one shard, or slice, of several is."""
    if (rank := RANK.fullmatch(path.name)) and _other(path, rank).is_file():
        message = "by its name this has one process's slices of a model (TensorRT-LLM, vLLM), and not the whole"
        return (Finding("slice", "warning", path.name, message),)
    called = SHARD.fullmatch(path.name)
    if called is None or (count := int(called["count"])) < 2:
        return ()
    message = f"by its name this is one shard of {count:,}: their index, or the folder, is the whole"
    return (Finding("shard", "warning", path.name, message),)


def _other(path: Path, rank: re.Match[str]) -> Path:
    """The file of another process."""
    return path.with_name(f"{rank['stem']}{'0' if int(rank['rank']) else '1'}{rank['rest']}")


def plain_name(index: str) -> str:
    """What the single file would be called whose index this is: ``model.fp16.safetensors``; "" where it is none."""
    if not INDEX.fullmatch(index):
        return ""
    plain, _, variant = index.removesuffix(".json").rpartition(".index")
    stem, suffix = split_suffix(plain)
    return f"{stem}{variant}{suffix}"


def split_suffix(plain: str) -> tuple[str, str]:
    """A file's name without its suffix, and the suffix."""
    stem, dot, suffix = plain.rpartition(".")
    return (stem, dot + suffix) if stem else (plain, "")
