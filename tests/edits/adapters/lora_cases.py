"""The adapters of fixtures/lora, each with its network and what peft and LyCORIS make of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

FOLDER = Path(__file__).parents[3] / "fixtures" / "lora"
FIXTURES = [FOLDER / f"{name}.safetensors" for name in ("adapters", "added", "multiplied")]

CASES: dict[str, dict[str, Any]] = {}
for _path in FIXTURES:
    with safe_open(_path, "pt") as _file:
        CASES |= {name: json.loads(text) for name, text in sorted(_file.metadata().items())}


def part(name: str) -> Tensors:
    start = f"{name}/"
    found: Tensors = {}
    for path in FIXTURES:
        with safe_open(path, "pt") as file:
            found |= {key.removeprefix(start): file.get_tensor(key) for key in file.keys() if key.startswith(start)}  # noqa: SIM118
    return found


def write_adapter(folder: Path, tensors: Tensors, config: object = None) -> Path:
    """An adapter as it is given away: PEFT's folder, or one file."""
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def case(name: str, folder: Path, dtype: torch.dtype | None = None) -> tuple[Path, Path, Tensors]:
    """The base's file, the adapter, and the tensors that merging changes, in F64."""
    base = part(f"{CASES[name]['network']}/base")
    save_file({key: tensor.to(dtype) if dtype else tensor for key, tensor in base.items()}, folder / "base.safetensors")
    adapter = write_adapter(folder / "adapter", part(f"{name}/adapter"), CASES[name]["config"])
    return folder / "base.safetensors", adapter, part(f"{name}/expected")


def merged(base: Path, *adapters: ckptconv.Lora | Path, target: str = "out.safetensors", **edits: Any) -> Tensors:
    """What is written of a base with adapters merged."""
    names = [one if isinstance(one, ckptconv.Lora) else ckptconv.Lora(one) for one in adapters]
    path = base.parent / target
    ckptconv.convert(base, path, edits=ckptconv.Edits(names=names, **edits), force=True)
    return load_file(path)
