"""``--like``: torch's weights return to another framework's file, as that framework wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, EditError, FileAccessError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

OTHERS = Path(__file__).parents[2] / "fixtures" / "others"
RECURRENT = OTHERS / "keras-recurrent.keras"

Tensors = dict[str, torch.Tensor]


def like(source: Path, template: Path, target: Path, *rules: ckptconv.NameRule, bare: bool = True) -> Path:
    names = [*rules, ckptconv.NameRule("like", str(template))]
    ckptconv.convert(source, target, edits=ckptconv.Edits(names=names), bare=bare, force=True)
    return target


def translated(source: Path, target: Path, dialect: str) -> Tensors:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("translate", dialect)])
    ckptconv.convert(source, target, edits=edits, bare=True)
    return torch.load(target)


def saved(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    "name",
    ["flax-bert.msgpack", "flax-gpt2.msgpack", "flax-vit.msgpack", "keras-bert.h5", "keras-gpt2.h5", "keras-vit.h5"],
)
def test_what_transformers_made_in_torch_returns_to_the_file_that_it_was_made_of(name: str, tmp_path: Path) -> None:
    in_torch = OTHERS / f"torch-of-{Path(name).stem}.pth"
    made = like(in_torch, OTHERS / name, tmp_path / name)
    assert ckptconv.diff(OTHERS / name, made, bare=True, translate=False).equal


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("keras-3.keras", "keras"), ("keras-recurrent.keras", "keras"), ("keras-recurrent.h5", "keras"),
        ("flax-modules.msgpack", "flax"), ("tensorflow-keras.ckpt.index", "keras"),
    ],
)  # fmt: skip
def test_a_translation_is_undone_with_the_configuration(name: str, dialect: str, tmp_path: Path) -> None:
    """Heads, gates, fused and split kernels, copies, zeros. Keras finds its layers in the configuration."""
    translated(OTHERS / name, tmp_path / "a.pth", dialect)
    target = tmp_path / name.replace(".ckpt.index", ".weights.h5")
    made = like(tmp_path / "a.pth", OTHERS / name, target)
    same_format = target.suffix == (OTHERS / name).suffix
    assert ckptconv.diff(OTHERS / name, made, bare=not same_format, translate=False).equal
    with ckptconv.open(OTHERS / name) as before, ckptconv.open(made) as after:
        assert sorted(after) == sorted(before)


def test_trained_weights_keep_their_values(tmp_path: Path) -> None:
    """Here only the second biases of recurrent layers are zero, for which Keras has no place."""
    state = translated(RECURRENT, tmp_path / "a.pth", "keras")
    trained = {
        name: tensor if "bias_hh" in name or not tensor.is_floating_point() else torch.randn_like(tensor)
        for name, tensor in state.items()
    }
    made = like(saved(tmp_path / "b.pth", trained), RECURRENT, tmp_path / "b.keras")
    again = translated(made, tmp_path / "c.pth", "keras")
    assert again.keys() == trained.keys()
    assert all(torch.equal(again[name], trained[name]) for name in again)


def test_values_that_the_template_has_no_place_for_are_refused(tmp_path: Path) -> None:
    state = translated(RECURRENT, tmp_path / "a.pth", "keras")
    name = next(name for name in state if "bias_hh" in name)
    state[name] = state[name] + 1
    with pytest.raises(EditError, match=f"no place for all of '{name}'") as caught:
        like(saved(tmp_path / "b.pth", state), RECURRENT, tmp_path / "b.keras")
    assert "add the second to the first" in str(caught.value.hint)
    assert not (tmp_path / "b.keras").exists()


def test_counters_and_second_names_of_a_tensor_are_left_out(tmp_path: Path) -> None:
    path = OTHERS / "keras-3.keras"
    state = translated(path, tmp_path / "a.pth", "keras")
    norm, first = "batch_normalization", next(iter(state))
    more = {**state, f"{norm}.num_batches_tracked": torch.tensor(7), "tied": state[first]}
    made = like(saved(tmp_path / "b.pth", more), path, tmp_path / "b.keras")
    assert ckptconv.diff(path, made, bare=True, translate=False).equal


def test_names_of_ones_own_are_given_before_it(tmp_path: Path) -> None:
    path = OTHERS / "keras-3.keras"
    state = translated(path, tmp_path / "a.pth", "keras")
    source = saved(tmp_path / "b.pth", {f"net.{name}": tensor for name, tensor in state.items()})
    made = like(source, path, tmp_path / "b.keras", ckptconv.NameRule("strip-prefix", "net."))
    assert ckptconv.diff(path, made, bare=True, translate=False).equal
    with pytest.raises(EditError, match=r"29 of its tensors are missing.*29 tensors here are not in it: 'net\."):
        like(source, path, tmp_path / "c.keras")


def test_from_one_framework_to_another_it_follows_a_translation(tmp_path: Path) -> None:
    source, template = OTHERS / "keras-bert.h5", OTHERS / "flax-bert.msgpack"
    made = like(source, template, tmp_path / "a.msgpack", ckptconv.NameRule("translate", "keras"))
    assert ckptconv.diff(source, made, bare=True).equal
    with pytest.raises(EditError, match="26 of its tensors are missing") as caught:
        like(source, template, tmp_path / "b.msgpack")
    assert str(caught.value.hint).startswith("--translate keras before it")


def test_what_torch_has_no_place_for_is_taken_from_the_template(tmp_path: Path) -> None:
    release = tmp_path / "consolidated.00.pth"
    release.write_bytes((OTHERS / "llama-2-whole.pth").read_bytes())
    (tmp_path / "params.json").write_text(json.dumps({"n_heads": 2, "n_kv_heads": 1}))
    state = translated(release, tmp_path / "a.pth", "meta")
    del state["rope.freqs"]
    edits = ckptconv.Edits(names=[ckptconv.NameRule("like", str(release))])
    done = ckptconv.convert(saved(tmp_path / "b.pth", state), tmp_path / "c.pth", edits=edits)
    (kept,) = [finding for finding in done.findings if finding.code == "kept"]
    assert kept.where == "rope.freqs"
    assert ckptconv.diff(release, tmp_path / "c.pth", bare=True, translate=False).equal


def changed(change: Callable[[Tensors], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        state = translated(OTHERS / "keras-3.keras", folder / "a.pth", "keras")
        change(state)
        return saved(folder / "b.pth", state)

    return make


@pytest.mark.parametrize(
    ("source", "template", "error", "message"),
    [
        (changed(lambda state: state.pop("batch_normalization.bias")), "keras-3.keras", EditError,
         "1 of its tensors is missing here, by torch's names 'batch_normalization.bias'"),
        (changed(lambda state: state.update(extra=torch.ones(2))), "keras-3.keras", EditError,
         "1 tensor here is not in it: 'extra'"),
        (changed(lambda state: state.update({"batch_normalization.bias": torch.ones(99)})), "keras-3.keras", EditError,
         r"'batch_normalization.bias' is \[99\], and \[\d+\] in it"),
        (changed(dict.copy), "torch-of-flax-bert.pth", UsageError, "its names and layouts are torch's"),
        (changed(dict.copy), "missing.keras", FileAccessError, "no such file"),
    ],
)  # fmt: skip
def test_another_network_or_a_template_that_is_none_is_refused(
    source: Callable[[Path], Path], template: str, error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        like(source(tmp_path), OTHERS / template, tmp_path / "c.keras")
    assert not (tmp_path / "c.keras").exists()


@pytest.mark.parametrize("how", [{"verify": True}, {"with_params": True}, {"arch": "mlp"}])
def test_options_that_go_by_an_architecture_are_refused(how: dict[str, Any], tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("like", str(OTHERS / "keras-bert.h5"))])
    with pytest.raises(UsageError, match="and none has another framework's names") as caught:
        ckptconv.convert(OTHERS / "torch-of-keras-bert.pth", tmp_path / "a.h5", edits=edits, **how)
    assert "ckptconv verify of both afterwards" in str(caught.value.hint)


def test_metadata_of_its_own_is_kept_beside_the_configuration(tmp_path: Path) -> None:
    path = OTHERS / "keras-3.keras"
    state = translated(path, tmp_path / "a.pth", "keras")
    torch.save({"epoch": 7, "vars": "mine", "state_dict": state}, tmp_path / "b.pth")
    made = like(tmp_path / "b.pth", path, tmp_path / "b.keras", bare=False)
    with ckptconv.open(path) as before, ckptconv.open(made) as after:
        assert after.metadata["epoch"] == 7
        assert after.metadata["config.json"] == before.metadata["config.json"]


def test_what_is_missing_is_not_taken_from_the_template_though_its_name_is_the_same(tmp_path: Path) -> None:
    """Flax' biases have torch's names and layouts."""
    state = torch.load(OTHERS / "torch-of-flax-bert.pth")
    del state["bert.encoder.layer.0.output.dense.bias"]
    with pytest.raises(EditError, match=r"1 of its tensors is missing here, by torch's names 'bert\.encoder.*bias'"):
        like(saved(tmp_path / "a.pth", state), OTHERS / "flax-bert.msgpack", tmp_path / "a.msgpack")


def test_quantized_templates_and_ggufs_are_refused_by_name(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"fc.weight": torch.ones(8, 8), "fc.bias": torch.ones(8)})
    ckptconv.convert(source, tmp_path / "q.safetensors", edits=ckptconv.Edits(quantize=["int8"]))
    with pytest.raises(UsageError, match="its weights are quantized"):
        like(source, tmp_path / "q.safetensors", tmp_path / "b.safetensors")
    layer = {f"blk.0.attn_{one}.weight": torch.ones(8, 8) for one in ("norm", "q", "k", "v", "output")}
    metadata = {"general.architecture": "llama", "llama.attention.head_count": 2}
    model = {**layer, "token_embd.weight": torch.ones(8, 8), "output_norm.weight": torch.ones(8)}
    ckptconv.convert(saved(tmp_path / "m.pth", model), tmp_path / "m.gguf", metadata=metadata)
    with pytest.raises(UsageError, match="this is a GGUF"):
        like(source, tmp_path / "m.gguf", tmp_path / "b.safetensors")
