"""An adapter as llama.cpp loads it, as it is typed: made of PEFT's, inspected, and merged into a GGUF."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file

import ckptconv
from tests.cli.conftest import strict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 12, "hidden_size": 8, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
SAID: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "base_model_name_or_path": "me/base"}
LAYER = "model.layers.0."
WEIGHTS = {
    "self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (8, 8), "mlp.up_proj": (8, 8), "mlp.down_proj": (8, 8),
}  # fmt: skip
TO_GGUF = ("--translate", "to-gguf")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def base(folder: Path) -> Path:
    """A Llama of one layer, as transformers saves it."""
    folder.mkdir()
    tensors = {f"{LAYER}{name}.weight": random(*shape) for name, shape in WEIGHTS.items()}
    tensors |= {f"{LAYER}{name}_layernorm.weight": torch.ones(8) for name in ("input", "post_attention")}
    tensors |= {"model.embed_tokens.weight": random(12, 8), "lm_head.weight": random(12, 9)[:, :8].contiguous()}
    save_file(tensors | {"model.norm.weight": torch.ones(8)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def adapter(folder: Path, more: dict[str, torch.Tensor] | None = None, **said: Any) -> Path:
    """A LoRA of its q, k and embedding, as peft saves it."""
    folder.mkdir()
    stem = f"base_model.model.{LAYER}self_attn."
    tensors = {
        f"{stem}q_proj.lora_A.weight": random(2, 8), f"{stem}q_proj.lora_B.weight": random(8, 2),
        f"{stem}k_proj.lora_A.weight": random(2, 8), f"{stem}k_proj.lora_B.weight": random(4, 2),
        "base_model.model.model.embed_tokens.lora_embedding_A": random(2, 12),
        "base_model.model.model.embed_tokens.lora_embedding_B": random(8, 2),
    }  # fmt: skip
    save_file({**tensors, **(more or {})}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(SAID | said))
    return folder


def entries(path: Path) -> dict[str, Any]:
    return {key: one.contents() for key, one in GGUFReader(path).fields.items() if not key.startswith("GGUF.")}


def test_it_is_made_with_the_base_s_configuration_alone(run: Run, tmp_path: Path) -> None:
    config = base(tmp_path / "base") / "config.json"
    out = tmp_path / "adapter.gguf"
    done = run("convert", adapter(tmp_path / "style"), out, *TO_GGUF, "--arch", config, "--dtype", "F16")
    assert done.exit_code == 0, done.output
    assert entries(out) == {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "general.name": "style",
        "general.base_model.count": 1, "general.base_model.0.name": "me/base", "adapter.lora.alpha": 3.0,
        "general.quantization_version": 2,
    }  # fmt: skip
    types = {one.name: (one.tensor_type.name, one.shape.tolist()) for one in GGUFReader(out).tensors}
    assert types["token_embd.weight.lora_a"] == ("F16", [2, 12])
    assert types["token_embd.weight.lora_b"] == ("F16", [2, 8])
    assert types["blk.0.attn_k.weight.lora_b"] == ("F16", [2, 4])
    assert len(types) == 6


def test_the_configuration_may_lie_beside_it_or_in_a_folder_that_is_named(run: Run, tmp_path: Path) -> None:
    one, two = base(tmp_path / "base"), adapter(tmp_path / "a")
    assert run("convert", two, tmp_path / "a.gguf", *TO_GGUF, "--arch", one).exit_code == 0
    (two / "config.json").write_text(json.dumps(CONFIG))
    assert run("convert", two, tmp_path / "b.gguf", *TO_GGUF).exit_code == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_scale_of_rslora_is_kept(run: Run, tmp_path: Path) -> None:
    """Alpha over the root of the rank is what llama.cpp, which knows alpha over the rank, makes of another alpha."""
    config = base(tmp_path / "base") / "config.json"
    made = adapter(tmp_path / "a", use_rslora=True)
    assert run("convert", made, tmp_path / "a.gguf", *TO_GGUF, "--arch", config).exit_code == 0
    assert entries(tmp_path / "a.gguf")["adapter.lora.alpha"] == pytest.approx(3 * 2**0.5)


@pytest.mark.parametrize(
    ("said", "typed", "words"),
    [
        ({"alpha_pattern": {"k_proj": 5}}, (), "an alpha of 3 (model.embed_tokens) and 5 (model.layers.0.self_attn.k"),
        ({"lora_alpha": 0}, (), "alpha is 0"),
        ({"peft_type": "LOHA"}, (), "made from PEFT's LoRA, and this is LOHA"),
        ({"init_lora_weights": "pissa"}, (), "takes its beginning out of the base's weights"),
        ({"use_dora": True}, (), "says that it is a DoRA"),
        ({"alora_invocation_tokens": [1]}, (), "the adapter is of aLoRA"),
        ({"lora_alpha": 1e39}, (), "says an alpha of 1e+39"),
        ({}, ("--dtype", "Q4_K_M"), "a mixture of types is for a whole model, and not for an adapter"),
        ({}, ("--verify",), "--verify is for models, and this is an adapter"),
        ({}, ("--with-params",), "--with-params is for models"),
        ({}, ("--shard-size", "1GB"), "--shard-size is for models"),
        ({}, ("--set", "a=1"), "--set is for models"),
        ({}, ("--lora", "a"), "--lora is for models"),
        ({}, ("--arch", "mlp"), "'mlp' is not a transformers configuration"),
        ({}, ("--arch", "absent.json"), "there is no absent.json"),
    ],
)  # fmt: skip
def test_what_the_file_cannot_say_is_refused_by_name(
    said: dict[str, Any], typed: tuple[str, ...], words: str, run: Run, tmp_path: Path
) -> None:
    config = base(tmp_path / "base") / "config.json"
    arch = () if "--arch" in typed else ("--arch", config)
    typed = tuple(str(tmp_path / "a") if one == "a" else one for one in typed)
    done = run("convert", adapter(tmp_path / "a", **said), tmp_path / "a.gguf", *TO_GGUF, *arch, *typed)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "a.gguf").exists()


def test_without_a_configuration_it_says_whose_and_how(run: Run, tmp_path: Path) -> None:
    done = run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf", *TO_GGUF)
    assert done.exit_code == 2
    assert "nothing says the configuration of the adapter's base, 'me/base'" in done.stderr
    assert "--arch BASE/config.json names it" in done.stderr


def test_another_model_s_configuration_is_reported(run: Run, tmp_path: Path) -> None:
    made = adapter(tmp_path / "a")
    (made / "config.json").write_text(json.dumps(CONFIG | {"num_key_value_heads": 2}))
    done = run("convert", made, tmp_path / "a.gguf", *TO_GGUF)
    assert done.exit_code == 2
    assert "by the base's configuration attn_k has 8 rows and 8 columns" in done.stderr


def test_a_gate_beside_each_head_is_counted(run: Run, tmp_path: Path) -> None:
    """Qwen3.5's q has one."""
    delta = {f"linear_{key}": 2 for key in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
    stem = f"base_model.model.{LAYER}self_attn.q_proj.lora_"
    gated = {f"{stem}A.weight": random(2, 8), f"{stem}B.weight": random(16, 2)}
    made = adapter(tmp_path / "a", gated)
    (made / "config.json").write_text(json.dumps(CONFIG | delta | {"architectures": ["Qwen3_5ForCausalLM"]}))
    done = run("convert", made, tmp_path / "a.gguf", *TO_GGUF)
    assert done.exit_code == 0, done.output


def test_folders_of_where_it_was_trained_are_not_written(run: Run, tmp_path: Path) -> None:
    config = base(tmp_path / "base") / "config.json"
    made = adapter(tmp_path / "a", base_model_name_or_path="/home/me/base")
    assert run("convert", made, tmp_path / "a.gguf", *TO_GGUF, "--arch", config).exit_code == 0
    assert not [key for key in entries(tmp_path / "a.gguf") if key.startswith("general.base_model")]


def test_blocks_are_for_factors_too(run: Run, tmp_path: Path) -> None:
    """The rows of A are as long as the base has inputs, those of B as its rank, which is too short here."""
    config, made = base(tmp_path / "base") / "config.json", tmp_path / "a"
    made.mkdir()
    stem = f"base_model.model.{LAYER}mlp.down_proj.lora_"
    save_file({f"{stem}A.weight": random(2, 32), f"{stem}B.weight": random(8, 2)}, made / "adapter_model.safetensors")
    (made / "adapter_config.json").write_text(json.dumps(SAID))
    done = run("convert", made, tmp_path / "a.gguf", *TO_GGUF, "--arch", config, "--dtype", "Q8_0")
    assert done.exit_code == 0, done.output
    assert [one.tensor_type.name for one in GGUFReader(tmp_path / "a.gguf").tensors] == ["Q8_0", "F32"]


def test_without_the_translation_there_is_a_hint(run: Run, tmp_path: Path) -> None:
    done = run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf")
    assert "--translate to-gguf" in done.stderr + done.stdout


def gguf_of(run: Run, folder: Path) -> Path:
    out = folder.with_suffix(".gguf")
    done = run("convert", folder, out, *TO_GGUF, "--meta", "tokenizer.ggml.model=none")
    assert done.exit_code == 0, done.output
    return out


def test_it_is_merged_into_a_gguf_as_peft_s_is_into_its_base(run: Run, tmp_path: Path) -> None:
    folder, made = base(tmp_path / "base"), adapter(tmp_path / "a")
    model, small = gguf_of(run, folder), tmp_path / "a.gguf"
    assert run("convert", made, small, *TO_GGUF, "--arch", folder).exit_code == 0
    done = run("convert", model, tmp_path / "found.gguf", "--lora", f"{small}=0.5")
    assert done.exit_code == 0, done.output
    whole = tmp_path / "merged"
    whole.mkdir()
    (whole / "config.json").write_text(json.dumps(CONFIG))
    assert run("convert", folder, whole / "model.safetensors", "--lora", f"{made}=0.5", "--bare").exit_code == 0
    with ckptconv.open(tmp_path / "found.gguf") as found, ckptconv.open(gguf_of(run, whole)) as wanted:
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert np.array_equal(found[name].numpy(), wanted[name].numpy()), name


def test_inspect_says_what_it_is(run: Run, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    assert run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf", *TO_GGUF, "--arch", folder).exit_code == 0
    found = strict(run("inspect", "--json", tmp_path / "a.gguf").output)["adapter"]
    assert (found["maker"], found["base_model"], found["mergeable"]) == ("llama.cpp", "me/base", True)
    assert found["kinds"] == {"LoRA": 2, "LoRA of an embedding": 1}
    assert found["scales"] == {"1.5": 3}


def test_it_has_no_place_in_a_model_of_transformers(run: Run, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    assert run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf", *TO_GGUF, "--arch", folder).exit_code == 0
    done = run("convert", folder, tmp_path / "out.safetensors", "--lora", tmp_path / "a.gguf")
    assert done.exit_code == 2
    assert "these are llama.cpp's names: merge it into a GGUF, before --translate gguf" in done.stderr
    again = run("convert", tmp_path / "a.gguf", tmp_path / "b.gguf", *TO_GGUF)
    assert "these are llama.cpp's names already" in again.stderr


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"adapter.type": "ia3"}, "adapters of llama.cpp's type 'ia3' are not merged"),
        ({"adapter.type": "lora", "adapter.lora.alpha": "x"}, "adapter.lora.alpha is not a number that is finite"),
        ({"adapter.type": "lora", "adapter.alora.invocation_tokens": [1]}, "the adapter is of aLoRA"),
    ],
)
def test_others_of_llama_cpp_s_are_refused_by_name(meta: dict[str, Any], words: str, run: Run, tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    plain = tmp_path / "plain.safetensors"
    save_file({"blk.0.attn_q.weight.lora_a": random(2, 8), "blk.0.attn_q.weight.lora_b": random(8, 2)}, plain)
    ckptconv.convert(
        plain, tmp_path / "a.gguf", metadata={"general.architecture": "llama", "general.type": "adapter"} | meta
    )
    done = run("convert", gguf_of(run, folder), tmp_path / "out.gguf", "--lora", tmp_path / "a.gguf")
    assert done.exit_code == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("target", "typed", "words"),
    [
        ("b.gguf", ("--dtype", "Q4_K_M"), "a mixture of types is for a whole model, and not for an adapter"),
        ("b.safetensors", ("--translate", "gguf"), "this is a llama.cpp adapter, whose names stay as they are"),
    ],
)
def test_what_is_for_models_is_refused_of_the_file_as_well(
    target: str, typed: tuple[str, ...], words: str, run: Run, tmp_path: Path
) -> None:
    config = base(tmp_path / "base") / "config.json"
    assert run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf", *TO_GGUF, "--arch", config).exit_code == 0
    done = run("convert", tmp_path / "a.gguf", tmp_path / target, *typed)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / target).exists()


def test_there_is_none_for_pictures(run: Run, tmp_path: Path) -> None:
    done = run("convert", adapter(tmp_path / "a"), tmp_path / "a.gguf", "--translate", "to-mmproj")
    assert done.exit_code == 2
    assert "--translate to-mmproj: this is an adapter, and llama.cpp loads none for pictures or sounds" in done.stderr
