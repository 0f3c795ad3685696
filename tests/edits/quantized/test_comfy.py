"""Files of ComfyUI's: scaled weights under its names become plain, what says how goes, other formats are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError, UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

LAYER = "model.diffusion_model.a"
WEIGHT = f"{LAYER}.weight"


def text(document: object) -> torch.Tensor:
    """A text as ComfyUI has it in a tensor."""
    return torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8)


def made(folder: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file({**tensors, "norm.weight": torch.ones(3)}, folder / "comfy.safetensors", metadata)
    return folder / "comfy.safetensors"


def plain(source: Path) -> dict[str, torch.Tensor]:
    target = source.with_name("plain.safetensors")
    ckptconv.convert(source, target, edits=ckptconv.Edits(dequantize=True))
    return load_file(target)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_scaled_fp8_files_become_plain(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight, scale = (torch.randn(6, 8) * 100).to(dtype), torch.rand(shape)
    source = made(tmp_path, {
        WEIGHT: weight, f"{LAYER}.scale_weight": scale, f"{LAYER}.scale_input": torch.ones(()),
        f"{LAYER}.bias": torch.ones(6), "model.diffusion_model.scaled_fp8": torch.zeros(2).to(dtype),
    })  # fmt: skip
    assert ckptconv.inspect(source).quantized == {"8-bit floats or integers with scales": 1}
    found = plain(source)
    assert found.keys() == {WEIGHT, f"{LAYER}.bias", "norm.weight"}
    assert torch.equal(found[WEIGHT], weight.float() * scale)


@pytest.mark.parametrize("as_tensor", [True, False])
@pytest.mark.parametrize("form", ["float8_e4m3fn", "int8_tensorwise"])
def test_layers_that_say_their_format_become_plain(tmp_path: Path, form: str, as_tensor: bool) -> None:
    weight = torch.randint(-127, 127, (6, 8)).to(torch.int8 if form.startswith("int8") else torch.float8_e4m3fn)
    scale = torch.rand(6, 1)
    tensors, metadata = {WEIGHT: weight, f"{LAYER}.weight_scale": scale}, {}
    if as_tensor:
        tensors[f"{LAYER}.comfy_quant"] = text({"format": form})
    else:
        metadata["_quantization_metadata"] = json.dumps({"format_version": "1.0", "layers": {LAYER: {"format": form}}})
    found = plain(made(tmp_path, tensors, **metadata))
    assert found.keys() == {WEIGHT, "norm.weight"}
    assert torch.equal(found[WEIGHT], weight.float() * scale)
    with safe_open(tmp_path / "plain.safetensors", "pt") as written:
        assert "_quantization_metadata" not in written.metadata()


@pytest.mark.parametrize(
    "said", [{"format": "nvfp4"}, {"format": "int8_tensorwise", "convrot": True}, {"format": 8}, {}]
)
@pytest.mark.parametrize("as_tensor", [True, False])
def test_others_of_its_formats_are_refused_by_name(tmp_path: Path, said: Any, as_tensor: bool) -> None:
    """Their tensors have the shapes of modelopt's NVFP4, and its elements in another order."""
    tensors = {
        WEIGHT: torch.zeros(128, 64, dtype=torch.uint8), f"{LAYER}.weight_scale_2": torch.ones(()),
        f"{LAYER}.weight_scale": torch.zeros(128, 8).to(torch.float8_e4m3fn),
    }  # fmt: skip
    layers = {"_quantization_metadata": json.dumps({"layers": {LAYER: said}})}
    source = made(tmp_path, tensors | ({f"{LAYER}.comfy_quant": text(said)} if as_tensor else {}),
                  **({} if as_tensor else layers))  # fmt: skip
    with pytest.raises(UnsupportedError, match="ComfyUI's format"):
        plain(source)
    assert ckptconv.inspect(source).quantized == {"NVFP4": 1}


@pytest.mark.parametrize(
    "said", [torch.zeros(1 << 15, dtype=torch.uint8), text([]), text("{"), torch.full((9,), 255, dtype=torch.uint8)]
)
def test_what_is_no_text_of_its_own_is_an_error(tmp_path: Path, said: torch.Tensor) -> None:
    tensors = {WEIGHT: torch.zeros(2, 2).to(torch.float8_e4m3fn), f"{LAYER}.weight_scale": torch.ones(())}
    with pytest.raises(CkptconvError, match="comfy_quant"):
        plain(made(tmp_path, {**tensors, f"{LAYER}.comfy_quant": said}))
