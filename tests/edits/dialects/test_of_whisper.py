"""Whisper as OpenAI and whisper.cpp have it and transformers' with its translated weights compute the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from torch.nn import functional

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError, UnsupportedError
from tests.arch.families.originals import spoken
from tests.arch.real_models import transformers_module

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
DIMS = {
    "n_mels": 10, "n_audio_ctx": 15, "n_audio_state": 16, "n_audio_head": 4, "n_audio_layer": 2, "n_vocab": 40,
    "n_text_ctx": 9, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1,
}  # fmt: skip
CPP = {
    "n_mels": 8, "n_audio_ctx": 6, "n_audio_state": 32, "n_audio_head": 1, "n_audio_layer": 1, "n_vocab": 40,
    "n_text_ctx": 5, "n_text_state": 32, "n_text_head": 1, "n_text_layer": 1,
}  # fmt: skip
"""Of the file that whisper.cpp loads."""


def test_diff_and_like_know_the_release(tmp_path: Path) -> None:
    release, in_transformers = tmp_path / "whisper.pt", tmp_path / "a.safetensors"
    torch.save({"dims": DIMS, "model_state_dict": spoken(**DIMS).state_dict()}, release)
    ckptconv.convert(
        release, in_transformers, edits=ckptconv.Edits(names=[NameRule("translate", "whisper")]), bare=True
    )
    assert ckptconv.diff(release, in_transformers, bare=True).equal
    ckptconv.convert(in_transformers, tmp_path / "b.pth", edits=ckptconv.Edits(names=[NameRule("like", str(release))]))
    assert ckptconv.diff(release, tmp_path / "b.pth", bare=True, translate=False).equal


def computed(model: Any, mel: torch.Tensor, tokens: torch.Tensor, dims: dict[str, int]) -> torch.Tensor:
    """The logits of OpenAI's network, as the forward functions of whisper/model.py compute them."""

    def attention(part: Any, x: torch.Tensor, other: torch.Tensor, heads: int, *, causal: bool = False) -> torch.Tensor:
        q, k, v = part["query"](x), part["key"](other), part["value"](other)
        q, k, v = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return part["out"](mixed.transpose(1, 2).flatten(2))

    def block(part: Any, x: torch.Tensor, heads: int, sound: torch.Tensor | None = None) -> torch.Tensor:
        h = part["attn_ln"](x)
        x = x + attention(part["attn"], h, h, heads, causal=sound is not None)
        if sound is not None:
            x = x + attention(part["cross_attn"], part["cross_attn_ln"](x), sound, heads)
        return x + part["mlp"](part["mlp_ln"](x))

    encoder, decoder = model["encoder"], model["decoder"]
    for conv, stride in (("conv1", 1), ("conv2", 2)):
        mel = functional.gelu(functional.conv1d(mel, encoder[conv].weight, encoder[conv].bias, stride, padding=1))
    sound = mel.transpose(1, 2) + encoder.positional_embedding
    for part in encoder["blocks"]:
        sound = block(part, sound, dims["n_audio_head"])
    sound = encoder["ln_post"](sound)
    x = decoder["token_embedding"](tokens) + decoder.positional_embedding[: tokens.shape[1]]
    for part in decoder["blocks"]:
        x = block(part, x, dims["n_text_head"], sound)
    return decoder["ln"](x) @ decoder["token_embedding"].weight.T


def network() -> Any:
    torch.manual_seed(0)
    made = spoken(**DIMS).double()
    for tensor in made.state_dict().values():
        torch.nn.init.normal_(tensor, 0.1, 0.5)
    return made


def transformers_model(dims: dict[str, int]) -> Any:
    """transformers' class, with the configuration that its convert_openai_to_hf.py makes of `dims`."""
    module = transformers_module()
    width = dims["n_audio_state"]
    config = module.WhisperConfig(
        vocab_size=dims["n_vocab"], encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
        num_mel_bins=dims["n_mels"], d_model=width, max_target_positions=dims["n_text_ctx"],
        encoder_layers=dims["n_audio_layer"], encoder_attention_heads=dims["n_audio_head"],
        decoder_layers=dims["n_text_layer"], decoder_attention_heads=dims["n_text_head"],
        max_source_positions=dims["n_audio_ctx"], pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=3,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module.WhisperForConditionalGeneration(config).eval()


def translated(source: Path, target: Path, *dtype: str) -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", "whisper")], dtype=dtype)
    ckptconv.convert(source, target, edits=edits, bare=True)
    return torch.load(target, weights_only=True)


def test_transformers_computes_what_openais_network_does(tmp_path: Path) -> None:
    ours, path = network(), tmp_path / "tiny.pt"
    torch.save({"dims": DIMS, "model_state_dict": ours.state_dict()}, path)
    model = transformers_model(DIMS).double()
    model.load_state_dict(translated(path, tmp_path / "out.pth"))
    mel, tokens = torch.randn(2, 10, 30).double(), torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        logits = model(input_features=mel, decoder_input_ids=tokens).logits
        assert torch.allclose(logits, computed(ours, mel, tokens, DIMS), rtol=1e-6, atol=1e-6)
    assert ckptconv.validate(tmp_path / "out.pth").arch == "whisper"


def test_blocks_of_whisper_cpps_file_are_the_floats_of_transformers_class(tmp_path: Path) -> None:
    state = translated(RUNTIMES / "ggml-whisper.bin", tmp_path / "out.pth", "F32")
    transformers_model(CPP).load_state_dict(state)
    with np.load(RUNTIMES / "ggml.npz") as arrays:
        stored = arrays["decoder.token_embedding.weight|Q5_0"]
    embedding = torch.from_numpy(dequantize(stored, GGMLQuantizationType.Q5_0))
    assert torch.equal(state["model.decoder.embed_tokens.weight"], embedding)
    assert state["proj_out.weight"].data_ptr() == state["model.decoder.embed_tokens.weight"].data_ptr()


def test_it_is_named_where_it_is_not_asked_for(tmp_path: Path) -> None:
    done = ckptconv.convert(RUNTIMES / "ggml-whisper.bin", tmp_path / "a.pth", edits=ckptconv.Edits(dtype=["F32"]))
    assert [finding.hint for finding in done.findings if finding.code == "dialect"] == ["--translate whisper"]
    torch.save(network().state_dict(), tmp_path / "tiny.pt")
    cause = ckptconv.validate(tmp_path / "tiny.pt", arch="whisper").findings[0]
    assert (cause.code, str(cause.hint).endswith("--translate whisper")) == ("dialect", True)


def test_what_is_no_whispers(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state | {"encoder.blocks.0.lora.weight": torch.ones(2)}, tmp_path / "more.pt")
    edits = ckptconv.Edits(names=[NameRule("translate", "whisper")])
    done = ckptconv.convert(tmp_path / "more.pt", tmp_path / "more.pth", edits=edits)
    assert [one.where for one in done.findings if one.code == "left-alone"] == ["encoder.blocks.0.lora.weight"]
    torch.save({name.replace("mlp.0", "mlp1"): tensor for name, tensor in state.items()}, tmp_path / "mlx.pt")
    with pytest.raises(UnsupportedError, match=r"'encoder\.blocks\.0\.mlp1\.weight' is a name of MLX's Whisper"):
        translated(tmp_path / "mlx.pt", tmp_path / "a.pth")
    torch.save({name: state[name] for name in state if ".blocks." not in name}, tmp_path / "conv.pt")
    with pytest.raises(EditError, match="none of its words"):
        translated(tmp_path / "conv.pt", tmp_path / "b.pth")
