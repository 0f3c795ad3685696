"""Other frameworks' names and layouts as torch's: the layers compute what their definitions say that they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch.nn import functional

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.name_rule import NameRule
from ckptconv.edits.translate import changes_in
from ckptconv.errors import EditError, LimitError, UsageError
from tests.support.stopwatch import at_most

rng = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return rng.standard_normal(shape)


def translated(arrays: dict[str, Any], tmp_path: Path, dialect: str) -> dict[str, torch.Tensor]:
    np.savez(tmp_path / "a.npz", **arrays)
    edits = ckptconv.Edits(names=[NameRule("translate", dialect)])
    ckptconv.convert(tmp_path / "a.npz", tmp_path / "b.pth", edits=edits, force=True)
    return torch.load(tmp_path / "b.pth", weights_only=True)


WORDS = {
    "flax": {
        "params.Dense_0.kernel": "Dense_0.weight",
        "params.Dense_0.bias": "Dense_0.bias",
        "params.BatchNorm_0.scale": "BatchNorm_0.weight",
        "batch_stats.BatchNorm_0.mean": "BatchNorm_0.running_mean",
        "batch_stats.BatchNorm_0.var": "BatchNorm_0.running_var",
        "params.Embed_0.embedding": "Embed_0.weight",
        "params.cls_token": "cls_token",
    },
    "keras": {
        "dense/kernel:0": "dense.weight",
        "dense_1/dense_1/kernel:0": "dense_1.weight",
        "dense_2/sequential/dense_2/kernel": "dense_2.weight",
        "dense_3/dense_3_1/kernel:0": "dense_3.weight",
        "bn/bn/gamma:0": "bn.weight",
        "bn/bn/beta:0": "bn.bias",
        "bn/bn/moving_mean:0": "bn.running_mean",
        "bn/bn/moving_variance:0": "bn.running_var",
        "emb/emb/embeddings:0": "emb.weight",
        "bert/tf_bert_model/bert/encoder/layer_._0/attention/self/query/kernel:0":
            "bert.encoder.layer.0.attention.self.query.weight",
        "mlm___cls/tf_bert_model/cls/predictions/bias:0": "cls.predictions.bias",
    },
}  # fmt: skip


@pytest.mark.parametrize("dialect", WORDS)
def test_names_are_those_that_torchs_modules_have(dialect: str, tmp_path: Path) -> None:
    names = WORDS[dialect]
    arrays = {name: random(3, 4) if "kernel" in name else random(4) for name in names}
    state = translated(arrays, tmp_path, dialect)
    assert list(state) == list(names.values())
    for old, new in names.items():
        assert torch.equal(state[new], torch.tensor(arrays[old].T if "kernel" in old else arrays[old]))


def test_flax_names_that_stand_in_no_collection_keep_all_of_their_parts(tmp_path: Path) -> None:
    state = translated({"params.a.kernel": random(2, 3), "ema.a.kernel": random(2, 3)}, tmp_path, "flax")
    assert list(state) == ["params.a.weight", "ema.a.weight"]


def test_flax_names_of_a_flattened_tree_have_slashes_for_dots(tmp_path: Path) -> None:
    arrays = {name: random(*(3, 2, 2)[:rank]) for name, rank in (
        ("params.encoder.query.kernel", 3), ("params.encoder.query.bias", 2), ("params.Dense_0.kernel", 2),
        ("batch_stats.BatchNorm_0.mean", 1), ("params.cls", 3),
    )}  # fmt: skip
    dotted = translated(arrays, tmp_path, "flax")
    slashed = translated({name.replace(".", "/"): array for name, array in arrays.items()}, tmp_path, "flax")
    assert list(slashed) == list(dotted)
    assert all(torch.equal(slashed[name], tensor) for name, tensor in dotted.items())


@pytest.mark.parametrize(("dialect", "name"), [("flax", "d.kernel"), ("keras", "d/d/kernel:0")])
def test_a_dense_layer(dialect: str, name: str, tmp_path: Path) -> None:
    kernel, x = random(5, 7), random(3, 5)
    state = translated({name: kernel}, tmp_path, dialect)
    assert np.allclose(functional.linear(torch.tensor(x), state["d.weight"]).numpy(), x @ kernel)


def test_a_bias_of_one_row_is_a_vector(tmp_path: Path) -> None:
    """transformers' Conv1D for TensorFlow, which GPT-2 is made of, has it so."""
    weight, bias = random(3, 4), random(1, 4)
    state = translated({"h/c_attn/weight:0": weight, "h/c_attn/bias:0": bias}, tmp_path, "keras")
    assert torch.equal(state["h.c_attn.bias"], torch.tensor(bias[0]))


def windows(x: Any, size: tuple[int, ...]) -> Any:
    """[batch, *places, channels, *window] of [batch, *places, channels]."""
    return sliding_window_view(x, size, tuple(range(1, 1 + len(size))))


@pytest.mark.parametrize(("dialect", "name"), [("flax", "c.kernel"), ("keras", "c/c/kernel:0")])
@pytest.mark.parametrize("size", [(3,), (3, 2), (2, 3, 2)])
def test_a_convolution(dialect: str, name: str, size: tuple[int, ...], tmp_path: Path) -> None:
    kernel, x = random(*size, 4, 5), random(2, *(n + 3 for n in size), 4)
    state = translated({name: kernel}, tmp_path, dialect)
    apply = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(size)]
    found = apply(torch.tensor(x).movedim(-1, 1), state["c.weight"]).movedim(1, -1)
    window = "xyz"[: len(size)]
    assert np.allclose(found.numpy(), np.einsum(f"n...c{window},{window}co->n...o", windows(x, size), kernel))


def test_a_depthwise_convolution_of_keras(tmp_path: Path) -> None:
    kernel, x = random(3, 2, 4, 5), random(2, 6, 5, 4)
    state = translated({"c/c/depthwise_kernel:0": kernel}, tmp_path, "keras")
    found = functional.conv2d(torch.tensor(x).movedim(-1, 1), state["c.weight"], groups=4).movedim(1, -1)
    expected = np.einsum("nhwcxy,xycm->nhwcm", windows(x, (3, 2)), kernel)
    assert np.allclose(found.numpy(), expected.reshape(*expected.shape[:3], 20))


def test_a_separable_convolution_of_keras_is_two_of_torchs(tmp_path: Path) -> None:
    arrays = {"c/c/depthwise_kernel": random(3, 2, 4, 5), "c/c/pointwise_kernel": random(1, 1, 20, 6)}
    state = translated({**arrays, "c/c/bias": random(6), "n/n/gamma": random(6)}, tmp_path, "keras")
    assert {name: list(tensor.shape) for name, tensor in state.items()} == {
        "c.depthwise.weight": [20, 1, 3, 2], "c.pointwise.weight": [6, 20, 1, 1], "c.bias": [6], "n.weight": [6],
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "params.layer.att."])
def test_flaxs_attention_has_a_dimension_of_heads(prefix: str, tmp_path: Path) -> None:
    heads, width, size = 2, 4, 6
    kernels = {f"{prefix}{part}.kernel": random(size, heads, width) for part in ("query", "key", "value")}
    biases = {f"{prefix}{part}.bias": random(heads, width) for part in ("query", "key", "value")}
    arrays = {**kernels, **biases, f"{prefix}out.kernel": random(heads, width, size), f"{prefix}out.bias": random(size)}
    state = translated(arrays, tmp_path, "flax")
    x = random(3, size)
    for part in ("query", "key", "value"):
        expected = np.einsum("ne,ehd->nhd", x, arrays[f"{prefix}{part}.kernel"]) + arrays[f"{prefix}{part}.bias"]
        name = f"{prefix.removeprefix('params.')}{part}"
        found = functional.linear(torch.tensor(x), state[f"{name}.weight"], state[f"{name}.bias"])
        assert np.allclose(found.numpy(), expected.reshape(3, -1))
    mixed = random(3, heads, width)
    expected = np.einsum("nhd,hde->ne", mixed, arrays[f"{prefix}out.kernel"])
    out = state[f"{prefix.removeprefix('params.')}out.weight"]
    assert np.allclose(functional.linear(torch.tensor(mixed.reshape(3, -1)), out).numpy(), expected)


def test_a_weight_that_two_layers_share_is_there_once_where_it_is_the_same(tmp_path: Path) -> None:
    names = ["bert/tf_bert/bert/e/embeddings:0", "cls/tf_bert/bert/e/embeddings:0"]
    assert list(translated(dict.fromkeys(names, random(4, 3)), tmp_path, "keras")) == ["bert.e.weight"]
    different = {name: random(4, 3) for name in names}
    assert list(translated(different, tmp_path, "keras")) == ["bert.e.weight", "cls.tf_bert.bert.e.weight"]


def test_a_dialect_that_is_none_or_of_which_there_is_no_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such dialect"):
        translated({"a.kernel": random(2, 2)}, tmp_path, "mxnet")
    with pytest.raises(EditError, match="none of its words"):
        translated({"a.weight": random(2, 2)}, tmp_path, "flax")


def notices(source: Path, target: Path, **more: Any) -> list[str | None]:
    found = ckptconv.convert(source, target, force=True, dry_run=True, **more).findings
    return [finding.hint for finding in found if finding.code == "dialect"]


def test_that_a_checkpoint_could_be_translated_is_reported(tmp_path: Path) -> None:
    others = Path(__file__).parents[3] / "fixtures" / "others"
    assert notices(others / "keras-3.keras", tmp_path / "a.pth") == ["--translate keras"]
    assert notices(others / "flax-vit.msgpack", tmp_path / "a.safetensors") == ["--translate flax"]
    assert notices(others / "tensorflow-keras.ckpt.index", tmp_path / "a.pth") == ["--translate keras"]
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    assert notices(others / "keras-3.keras", tmp_path / "a.pth", edits=edits) == []
    assert notices(others / "tensorflow-types.ckpt.index", tmp_path / "a.pth") == []
    assert notices(others.parent / "digits-raw.pth", tmp_path / "a.pth") == []
    assert notices(others.parent / "digits-raw.pth", tmp_path / "a.msgpack") == ["--like FILE"]
    assert notices(others.parent / "digits-raw.pth", tmp_path / "a.weights.h5") == ["--like FILE"]
    assert notices(others / "tensorflow-types.ckpt.index", tmp_path / "a.h5") == []
    edits = ckptconv.Edits(names=[NameRule("like", str(others / "flax-bert.msgpack"))])
    assert notices(others / "torch-of-flax-bert.pth", tmp_path / "a.msgpack", edits=edits) == []


def test_a_misfit_whose_names_are_those_of_another_release_says_so_first(tmp_path: Path) -> None:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes((Path(__file__).parents[3] / "fixtures" / "others" / "llama-2-whole.pth").read_bytes())
    (tmp_path / "params.json").write_text('{"n_heads": 2, "n_kv_heads": 1}')
    result = ckptconv.validate(path, arch="llama")
    first = result.findings[0]
    assert (result.valid, first.code) == (False, "dialect")
    assert first.hint == f"ckptconv convert {path} translated.pth --translate meta"
    assert not [finding for finding in result.findings if "a plain value" in finding.message]


def test_shapes_that_cost_nothing_are_not_cut_into_a_name_for_each_row() -> None:
    experts = {f"blk.{i}.ffn_gate_exps.weight": TensorInfo.of(DType.F32, (1 << 14, 0, 1)) for i in range(2_000)}
    windows = {f"ConvTranspose_{i}.kernel": TensorInfo.of(DType.F32, (1000, 0, 1)) for i in range(2_000)}
    with at_most(2):
        for dialect, tensors in (("gguf", experts), ("flax", windows)):
            with pytest.raises(LimitError, match="cut into more than"):
                changes_in(dialect, tensors, {"general.architecture": "qwen3moe"})
    changes_in("gguf", dict(list(experts.items())[:1]), {"general.architecture": "qwen3moe"})
    of_a_size = {name: TensorInfo.of(DType.F32, (1 << 14, 1, 1)) for name in list(experts)[:2]}
    with pytest.raises(LimitError, match="cut into more than 16,384, further than any model's of its size"):
        changes_in("gguf", of_a_size, {"general.architecture": "qwen3moe"})
