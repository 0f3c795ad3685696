"""The names of the files of a sharded set (`shards` has the layout). No file is read here."""

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
"""The names that Hugging Face's libraries give to a file with all weights of a folder."""

PICKLED_COPIES = {
    "model": "pytorch_model", "diffusion_pytorch_model": "diffusion_pytorch_model", "adapter_model": "adapter_model",
}  # fmt: skip
"""The stem of the pickle with the same weights, by the stem of the safetensors file."""

ADAPTERS = "adapters.safetensors"
"""mlx-lm's name for an adapter's final weights, beside those of earlier steps."""

SLICES = re.compile(r"shard-(?P<shard>\d{5,9})-model-(?P<part>\d{5,9})-of-(?P<parts>\d{5,9})\.safetensors")
"""torch.distributed.checkpoint's names for files of slices (`safetensors.slices`), which no index lists."""

RANK = re.compile(r"(?P<stem>(model-)?rank-?)(?P<rank>\d{1,6})(?P<rest>(-part-\d+)?\.safetensors)")
"""The names that TensorRT-LLM (``rank0.safetensors``) and vLLM's sharded_state (``model-rank-0-part-0.safetensors``)
give to each process's file: slices, and nothing says how they were cut.
"""

BINARIES = (".bin", ".pth", ".pt", ".ckpt")


def is_shard(name: str) -> bool:
    """Whether a file has the name of a shard."""
    return SHARD.fullmatch(name) is not None and name.lower().endswith((".safetensors", *BINARIES))


def whole_set(names: Iterable[str]) -> list[str]:
    """The safetensors shards of the only set in a folder, in order; [] if some are missing, or if there is an index.

    names: the files of the folder.
    """
    files = list(names)
    shards = {name: match for name in files if (match := SHARD.fullmatch(name)) and is_shard(name)}
    sets = {(shard["stem"], shard["count"], shard["suffix"]) for shard in shards.values()}
    if len(sets) != 1 or any(map(INDEX.fullmatch, files)):
        return []
    found = sorted(shards, key=lambda name: int(shards[name]["number"]))
    if not found[0].endswith(".safetensors") or SLICES.fullmatch(found[0]):
        return []
    numbers = [int(shards[name]["number"]) for name in found]
    is_whole = len(found) == int(shards[found[0]]["count"]) and numbers == list(range(1, len(found) + 1))
    return found if is_whole else []


def lone_shard_findings(path: Path) -> tuple[Finding, ...]:
    """A warning if a file that is read by itself has the name of one of several shards or slices."""
    if (rank := RANK.fullmatch(path.name)) and _another_rank(path, rank).is_file():
        message = "by its name this has one process's slices of a model (TensorRT-LLM, vLLM), and not the whole"
        return (Finding("slice", "warning", path.name, message),)
    shard = SHARD.fullmatch(path.name)
    if shard is None or (count := int(shard["count"])) < 2:
        return ()
    message = f"by its name this is one shard of {count:,}: their index, or the folder, is the whole"
    return (Finding("shard", "warning", path.name, message),)


def _another_rank(path: Path, rank: re.Match[str]) -> Path:
    """The path of another process's file."""
    return path.with_name(f"{rank['stem']}{'0' if int(rank['rank']) else '1'}{rank['rest']}")


def plain_name(index: str) -> str:
    """The name that the single file of an index would have: ``model.fp16.safetensors``; "" if this is no index."""
    if not INDEX.fullmatch(index):
        return ""
    plain, _, variant = index.removesuffix(".json").rpartition(".index")
    stem, suffix = split_suffix(plain)
    return f"{stem}{variant}{suffix}"


def split_suffix(plain: str) -> tuple[str, str]:
    """A file's name without its last suffix, and the suffix."""
    stem, dot, suffix = plain.rpartition(".")
    return (stem, dot + suffix) if stem else (plain, "")
