"""Weights of which a network keeps what they are computed of: named as that, with Python that computes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ckptconv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(4, 6, 3), nn.ReLU(), nn.ConvTranspose1d(6, 6, 3, bias=False), nn.Flatten(), nn.Linear(72, 5)
    )


def by_hook(norm: Callable[..., Any], **options: Any) -> Callable[[nn.Module], Any]:
    def made(module: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are deprecated, and everywhere
            norm(module, **options)

    return made


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "pruned": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "pruned by rows": lambda module: prune.ln_structured(module, "weight", 0.4, n=2, dim=0),
    "weight_norm": by_hook(nn.utils.weight_norm),
    "weight_norm of the last dimension": by_hook(nn.utils.weight_norm, dim=1),
    "weight_norm of all": by_hook(nn.utils.weight_norm, dim=None),
    "parametrized weight_norm": parametrizations.weight_norm,
    "spectral_norm": by_hook(nn.utils.spectral_norm, dim=0),
    "parametrized spectral_norm": lambda module: parametrizations.spectral_norm(module, dim=0),
}


@pytest.mark.parametrize("change", WAYS.values(), ids=WAYS)
def test_the_hints_make_a_state_dict_that_computes_the_same(change: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    model = plain()
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    for layer in (model[0], model[2], model[4]):
        change(layer)
    model(torch.randn(2, 4, 12))  # spectral norms come nearer to what they are
    model.eval()
    torch.save(model.state_dict(), tmp_path / "changed.pth")
    verdict = ckptconv.validate(tmp_path / "changed.pth", arch=tmp_path / "plain.pth")
    assert [finding.code for finding in verdict.findings] == ["parametrized"] * 3 + ["parametrizations"]
    state_dict = torch.load(tmp_path / "changed.pth")
    for finding in verdict.findings[:3]:
        assert finding.hint is not None
        exec(finding.hint, {"state_dict": state_dict, "torch": torch})
    again = plain()
    again.load_state_dict(state_dict)
    given = torch.randn(3, 4, 12)
    torch.testing.assert_close(again.eval()(given), model(given), rtol=1e-5, atol=1e-6)


def test_a_parametrization_that_only_code_says_is_not_taken_for_a_rename(tmp_path: Path) -> None:
    model = plain()
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    parametrizations.orthogonal(model[4])
    torch.save(model.state_dict(), tmp_path / "changed.pth")
    (finding,) = ckptconv.validate(tmp_path / "changed.pth", arch=tmp_path / "plain.pth").findings
    assert (finding.code, finding.where) == ("parametrized", "4.weight")
    assert "a class that the file does not name" in finding.message


def test_a_half_of_such_parts_is_no_weight(tmp_path: Path) -> None:
    model = plain()
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    prune.identity(model[0], "weight")
    state_dict = model.state_dict()
    del state_dict["0.weight_mask"]
    torch.save(state_dict, tmp_path / "changed.pth")
    verdict = ckptconv.validate(tmp_path / "changed.pth", arch=tmp_path / "plain.pth")
    assert [finding.code for finding in verdict.findings] == ["renamed"]


def test_parts_of_another_shape_than_the_weight_s_are_no_weight(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3, 4)}, tmp_path / "plain.pth")
    torch.save({"w_orig": torch.ones(5, 4), "w_mask": torch.ones(5, 4)}, tmp_path / "changed.pth")
    verdict = ckptconv.validate(tmp_path / "changed.pth", arch=tmp_path / "plain.pth")
    assert "parametrized" not in [finding.code for finding in verdict.findings]
