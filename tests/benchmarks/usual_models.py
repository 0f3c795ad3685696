"""What people run for a model of the hub, as the benchmarks' peer: ``python usual_models.py WORK SOURCE … TARGET``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def to_gguf(source: str, kind_name: str, target: str) -> None:
    """As llama.cpp's convert_hf_to_gguf.py does it: one tensor after another becomes F32, and that by numpy."""
    import gguf
    import numpy as np

    kinds = gguf.GGMLQuantizationType
    config = json.loads((Path(source) / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(target, "llama")
    for name, part in _slices(source):
        kind = kinds[kind_name] if len(part.get_shape()) > 1 else kinds.F32
        plain = {kinds.F32: np.float32, kinds.F16: np.float16}.get(kind)
        shape = part.get_shape() if plain else gguf.quant_shape_to_byte_shape(part.get_shape(), kind)
        dtype = np.dtype(plain or np.uint8)
        size = int(np.prod(shape)) * dtype.itemsize
        named = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor_info(named, shape, dtype, size, raw_dtype=None if plain else kind)  # type: ignore[arg-type]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, part in _slices(source):
        array = part[:].float().numpy()
        count = next((heads[key] for key in heads if key in name), 0)
        if count:
            pairs = array.reshape(count, 2, -1, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        writer.write_tensor_data(gguf.quants.quantize(array, kinds[kind_name] if array.ndim > 1 else kinds.F32))
    writer.close()


def _slices(source: str) -> Iterator[tuple[str, Any]]:
    where = json.loads((Path(source) / "model.safetensors.index.json").read_text())["weight_map"]
    for file in sorted(set(where.values())):
        with safe_open(Path(source) / file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is not a mapping)
                yield name, opened.get_slice(name)


def lora(source: str, adapter: str, target: str) -> None:
    """As peft's documentation has it."""
    from peft import PeftModel  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(target)


def fp8(source: str, target: str) -> None:
    """As DeepSeek's fp8_cast_bf16.py, on a CPU: all of a file, times the scales of blocks of 128 by 128."""
    state, made = load_file(source), {}
    for name, weight in state.items():
        if weight.dtype is torch.float8_e4m3fn:
            scales = state[f"{name}_scale_inv"].repeat_interleave(128, 0).repeat_interleave(128, 1)
            made[name] = (weight.float() * scales[: weight.shape[0], : weight.shape[1]]).bfloat16()
        elif not name.endswith("_scale_inv"):
            made[name] = weight
    save_file(made, target)


WORKS: dict[str, Callable[..., None]] = {"to-gguf": to_gguf, "lora": lora, "fp8": fp8}


def main(work: str, *paths: str) -> None:
    """Do it, and have it on the disk, as ckptconv has."""
    WORKS[work](*paths)
    target = Path(paths[-1])
    for path in target.iterdir() if target.is_dir() else [target]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
