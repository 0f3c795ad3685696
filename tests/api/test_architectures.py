"""The library's verbs about architectures: data in, data out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.arch.load import library_names
from ckptconv.errors import LossError, MisfitError, TargetExistsError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = ["input_size=8", "hidden_layers=[6]", "output_size=3"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    torch.save(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).state_dict(), tmp_path / "raw.pth")
    return tmp_path / "raw.pth"


def test_the_library_is_listed_by_name() -> None:
    assert [one.spec.name for one in ckptconv.architectures()] == list(library_names())


def test_an_architecture_without_its_params_says_which_it_misses() -> None:
    found = ckptconv.architecture("mlp")
    assert (found.table, found.params) == (None, {})
    assert found.missing == ["input_size", "hidden_layers", "output_size"]


def test_an_architecture_with_its_params_has_every_tensor() -> None:
    found = ckptconv.architecture("mlp", settings=[*SETTINGS, "bias=false"])
    assert found.table is not None
    assert {name: entry.shape for name, entry in found.table.tensors.items()} == {
        "hidden_layers.0.weight": (6, 8), "output.weight": (3, 6),
    }  # fmt: skip
    assert (found.missing, found.params["bias"], found.params["activation"]) == ([], False, "relu")


@pytest.mark.parametrize("name", ["resnt", "", "mlp.json", "../mlp"])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="there is no architecture"):
        ckptconv.architecture(name)


def test_a_spec_is_inferred_and_written(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.toml"
    made = ckptconv.infer_architecture([raw], target=target)
    assert (made.target, target.read_text(encoding="utf-8")) == (target, made.text)
    assert made.spec.name == "net"
    assert ckptconv.validate(raw, arch=str(target)).valid
    with pytest.raises(TargetExistsError):
        ckptconv.infer_architecture([raw], target=target)
    assert ckptconv.infer_architecture([raw]).spec.name == "inferred"
    assert ckptconv.infer_architecture([raw], target=tmp_path / "a b.toml").spec.name == "inferred"


def test_nothing_can_be_inferred_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ckptconv.infer_architecture([])


def test_a_validation_says_what_was_bound_and_from_where(raw: Path) -> None:
    result = ckptconv.validate(raw, arch="mlp", settings=["activation=tanh"])
    assert result.valid
    assert result.spec is not None
    assert {name: result.params[name] for name in result.spec.required} == {
        "input_size": 8, "hidden_layers": [6], "output_size": 3,
    }  # fmt: skip
    assert (result.origins["input_size"], result.origins["activation"]) == ("tensors", "--set")


def test_a_conversion_with_an_architecture_checks_it_first(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    with pytest.raises(MisfitError) as caught:
        ckptconv.convert(raw, target, arch="lenet")
    assert not target.exists()
    assert caught.value.findings
    assert caught.value.path == raw
    assert len(caught.value.details) <= 21
    ckptconv.convert(raw, target, arch="mlp", settings=["activation=tanh"], with_params=True)
    with ckptconv.open(target) as checkpoint:
        assert checkpoint.metadata == {"input_size": 8, "hidden_layers": [6], "output_size": 3}
        note: Any = checkpoint.notes.arch
        assert note["params"]["activation"] == "tanh"
    assert ckptconv.validate(target).origins["activation"] == "arch note"


def test_settings_need_an_architecture(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="params are set for no architecture"):
        ckptconv.convert(raw, tmp_path / "out.pth", settings=SETTINGS)


def test_a_loss_is_still_a_loss_where_the_architecture_fits(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "opaque.pth"
    torch.save({"state_dict": torch.load(raw, weights_only=True), "made_by": nn.ReLU}, path)
    with pytest.raises(LossError):
        ckptconv.convert(path, tmp_path / "out.pth", arch="mlp")


def test_param_that_nothing_says_is_a_warning_and_not_written(raw: Path, tmp_path: Path) -> None:
    spec = tmp_path / "net.toml"
    spec.write_text(
        'spec = 1\nname = "net"\n[params]\nwidths = "ints"\nhead_of = "int"\n[repeat]\ni = "len(widths) - 1"\n'
        '[tensors]\n"{2*i}.weight" = "widths[i+1] widths[i]"\n"{2*i}.bias" = "widths[i+1]"\n'
    )
    result = ckptconv.convert(raw, tmp_path / "out.pth", arch=str(spec), with_params=True)
    assert [(finding.code, finding.where) for finding in result.findings] == [("param-open", "head_of")]
    assert torch.load(tmp_path / "out.pth", weights_only=True)["widths"] == [8, 6, 3]
