"""What an architecture was made with also stands in settings below the root, under whatever key, as whatever object."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are saved with torch.save")

from omegaconf import OmegaConf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from ckptconv.api.convert import convert  # noqa: E402
from ckptconv.api.validate import validate  # noqa: E402
from ckptconv.errors import UsageError  # noqa: E402
from tests.checks.support import codes, perceptron  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = {"input_size": 8, "hidden_layers": [6, 4], "output_size": 3}


@dataclass
class Config:
    input_size: int
    hidden_layers: list[int]
    output_size: int


class Slotted:
    __slots__ = ("hidden_layers", "input_size", "output_size")

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self, name, value)


class AttributeDict(dict[str, Any]):
    """As Lightning's: a dict whose items are attributes too."""


FORMS: dict[str, tuple[Callable[..., Any], str]] = {
    "dict": (dict, "checkpoint['kept']['output_size']"),
    "Namespace": (argparse.Namespace, "checkpoint['kept'].output_size"),
    "SimpleNamespace": (SimpleNamespace, "checkpoint['kept'].output_size"),
    "dataclass": (Config, "checkpoint['kept'].output_size"),
    "slots": (Slotted, "checkpoint['kept'].output_size"),
    "dict subclass": (AttributeDict, "checkpoint['kept']['output_size']"),
    "OmegaConf": (lambda **values: OmegaConf.create(values), "checkpoint['kept'].output_size"),
    "inner dict": (lambda **values: {"lr": 0.1, "model": values}, "checkpoint['kept']['model']['output_size']"),
    "dict in an object": (
        lambda **values: argparse.Namespace(net=values), "checkpoint['kept'].net['output_size']"
    ),
    "JSON text": (lambda **values: json.dumps(values), ""),
}  # fmt: skip


def weights(*widths: int) -> dict[str, Any]:
    return {name: torch.ones(shape) for name, shape in perceptron(*widths).items()}


@pytest.mark.parametrize("form", FORMS)
def test_settings_of_any_form_state_the_params(form: str, tmp_path: Path) -> None:
    make, place = FORMS[form]
    path = tmp_path / "model.pth"
    torch.save({"kept": make(**SIZES), "state_dict": weights(8, 6, 4, 3)}, path)
    right = validate(path)
    assert (right.valid, right.arch, right.evidence, right.params["output_size"]) == (True, "mlp", "metadata", 3)
    torch.save({"kept": make(**{**SIZES, "output_size": 5}), "state_dict": weights(8, 6, 4, 3)}, path)
    (found,) = validate(path).findings
    assert (found.code, found.where) == ("param-conflict", "output_size")
    assert found.message.startswith("output_size: kept")
    assert found.hint == (f"{place} = 3" if place else None)


def test_the_hint_mends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    wrong = {**SIZES, "output_size": 5}
    torch.save({"args": argparse.Namespace(model=wrong), "model": weights(8, 6, 4, 3)}, path)
    (found,) = validate(path).findings
    scope = {"checkpoint": torch.load(path, weights_only=False)}
    exec(found.hint or "", scope)
    torch.save(scope["checkpoint"], path)
    assert validate(path).valid


def test_settings_that_state_only_some_of_it_are_about_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"args": {"output_size": 5, "hidden_layers": [1]}, "state_dict": weights(8, 6, 4, 3)}, path)
    result = validate(path)
    assert (result.valid, result.evidence, codes(result.findings)) == (True, "names", [])


def test_settings_of_another_network_do_not_name_the_architecture(tmp_path: Path) -> None:
    """A script's settings may describe more than what is in the file; the names decide."""
    path = tmp_path / "model.pth"
    state = {"trunk.0.weight": torch.ones(2, 1, 3, 3), "trunk.1.weight": torch.ones(2, 2, 3, 3)}
    torch.save({"args": {"head": SIZES}, "state_dict": state}, path)
    with pytest.raises(UsageError, match="nothing says which architecture"):
        validate(path)


def test_the_root_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({**SIZES, "args": {**SIZES, "output_size": 5}, "state_dict": weights(8, 6, 4, 3)}, path)
    (found,) = validate(path).findings
    assert (found.code, found.hint) == ("param-conflict", "checkpoint['args']['output_size'] = 3")


def test_settings_in_the_texts_of_a_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights(8, 6, 4, 3), path, {"config": json.dumps(SIZES)})
    assert validate(path).evidence == "metadata"


def test_params_are_still_written_to_the_root(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save({"model_args": SIZES, "state_dict": weights(8, 6, 4, 3)}, source)
    convert(source, target, with_params=True)
    assert {key: torch.load(target)[key] for key in SIZES} == SIZES


MODELS = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width, depth, bias=True):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(width, width, bias) for _ in range(depth))
"""


def test_a_class_is_called_with_the_settings_that_have_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    path, arch = tmp_path / "model.pth", f"{tmp_path / 'models.py'}:Net"
    state = {f"layers.{i}.weight": torch.ones(4, 4) for i in range(3)}
    args = argparse.Namespace(width=4, depth=3, bias=False, lr=0.1)
    torch.save({"optim": {"width": 9}, "hyper_parameters": args, "state_dict": state}, path)
    assert validate(path, arch=arch).valid
    torch.save({"depth": 2, "hyper_parameters": args, "state_dict": state}, path)
    assert codes(validate(path, arch=arch).findings) == ["layer-count"], "the root's depth outranks that of settings"


def test_what_the_hubs_mixin_writes_beside_the_weights(tmp_path: Path) -> None:
    """huggingface_hub's PyTorchModelHubMixin: config.json has the arguments of the class."""
    save_file(weights(8, 6, 4, 3), tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SIZES))
    result = validate(tmp_path / "model.safetensors")
    assert (result.valid, result.arch, result.evidence) == (True, "mlp", "config.json")
    config.write_text(json.dumps({**SIZES, "output_size": 5}))
    (found,) = validate(tmp_path / "model.safetensors").findings
    assert (found.code, found.hint) == ("param-conflict", None)
    assert "config.json says 5" in found.message


def test_a_class_is_called_with_what_the_hubs_mixin_wrote(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    save_file({f"layers.{i}.weight": torch.ones(4, 4) for i in range(3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"width": 4, "depth": 3, "bias": False}))
    assert validate(tmp_path / "model.safetensors", arch=f"{tmp_path / 'models.py'}:Net").valid


def test_other_names_of_the_params_name_no_architecture_that_the_tensors_are_not_of(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    sizes = {"input_dim": 8, "hidden_dims": [6, 4], "num_classes": 3}
    torch.save({**sizes, "state_dict": {"conv.w": torch.ones(2, 1, 3, 3), "norm.w": torch.ones(2)}}, path)
    with pytest.raises(UsageError, match="nothing says which architecture"):
        validate(path)
    torch.save({**sizes, "state_dict": weights(8, 6, 4, 3)}, path)
    assert (validate(path).evidence, validate(path).valid) == ("metadata", True)
