"""``--remove-parametrizations``, against the functions with which torch itself makes such weights plain."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import ckptconv
from ckptconv.edits.computed import BLOCK
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = ckptconv.Edits(remove_parametrizations=True)


def deprecated(change: Callable[..., Any]) -> Callable[..., Any]:
    """torch's older functions, which warn and are in most checkpoints."""

    def changed(module: nn.Module, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            change(module, **options)

    return changed


weight_norm = deprecated(nn.utils.weight_norm)
spectral_norm = deprecated(nn.utils.spectral_norm)


def remove_parametrizations(module: nn.Module) -> None:
    parametrize.remove_parametrizations(module, "weight")


def remove_pruning(module: nn.Module) -> None:
    prune.remove(module, "weight")


Way = tuple["Callable[..., Any]", dict[str, Any], "Callable[..., Any]"]
REMOVE_WEIGHT_NORM = deprecated(nn.utils.remove_weight_norm)
REMOVE_SPECTRAL_NORM = deprecated(nn.utils.remove_spectral_norm)
WAYS: dict[str, Way] = {
    "pruned": (prune.random_unstructured, {"name": "weight", "amount": 0.5}, remove_pruning),
    "weight_norm": (weight_norm, {}, REMOVE_WEIGHT_NORM),
    "weight_norm of the second dimension": (weight_norm, {"dim": 1}, REMOVE_WEIGHT_NORM),
    "weight_norm of the last dimension": (weight_norm, {"dim": 2}, REMOVE_WEIGHT_NORM),
    "weight_norm of all": (weight_norm, {"dim": None}, REMOVE_WEIGHT_NORM),
    "parametrized weight_norm": (parametrizations.weight_norm, {}, remove_parametrizations),
    "spectral_norm": (spectral_norm, {"n_power_iterations": 5}, REMOVE_SPECTRAL_NORM),
    "spectral_norm of the second dimension": (
        spectral_norm, {"n_power_iterations": 5, "dim": 1}, REMOVE_SPECTRAL_NORM,
    ),
    "parametrized spectral_norm": (parametrizations.spectral_norm, {}, remove_parametrizations),
    "parametrized spectral_norm of the second dimension": (
        parametrizations.spectral_norm, {"dim": 1}, remove_parametrizations,
    ),
}  # fmt: skip


def converted(model: nn.Module, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    torch.save(model.state_dict(), folder / "parts.pth")
    ckptconv.convert(folder / "parts.pth", folder / "plain.safetensors", edits=PLAIN, **options)
    return load_file(folder / "plain.safetensors")


@pytest.mark.parametrize("layer", [lambda: nn.Conv1d(6, 6, 5), lambda: nn.ConvTranspose1d(6, 9, 4)], ids=["conv", "up"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_weights_are_those_that_torch_makes(way: Way, layer: Callable[[], nn.Module], tmp_path: Path) -> None:
    add, options, remove = way
    torch.manual_seed(3)
    model: Any = nn.Sequential(layer())
    add(model[0], **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 9)  # so that norms are not those of the weight any more
        model(torch.randn(1, 6, 12))
    weights = converted(model.eval(), tmp_path)
    remove(model[0])
    assert list(weights) == list(model.state_dict())
    ulp = np.spacing(np.abs(model[0].weight.detach().numpy()))
    assert (np.abs(weights["0.weight"].numpy() - model[0].weight.detach().numpy()) <= 4 * ulp).all()
    again = nn.Sequential(layer())
    again.load_state_dict(weights)


def test_pruned_weights_have_torchs_bits(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(7, 5))
    prune.random_unstructured(model[0], "weight", 0.4)
    prune.random_unstructured(model[0], "bias", 0.4)
    weights = converted(model, tmp_path)
    for name in ("weight", "bias"):
        prune.remove(model[0], name)
        assert torch.equal(weights[f"0.{name}"].view(torch.int32), model[0].get_parameter(name).view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_types_are_computed_in_f64_and_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(9, 4, dtype=torch.float64))
    parametrizations.weight_norm(model[0])
    low: Any = model.to(dtype)
    weights = converted(low, tmp_path)
    originals = low[0].parametrizations.weight
    g, v = originals.original0.double(), originals.original1.double()
    exact = v * (g / v.norm(dim=1, keepdim=True))
    torch.testing.assert_close(weights["0.weight"], exact.to(dtype), rtol=1e-15, atol=0)


def test_norms_over_several_blocks_and_rows_across_them(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(BLOCK // 100, 300), nn.Linear(300, 3))
    weight_norm(model[0])
    weight_norm(model[1], dim=1)
    spectral = nn.Linear(700, 400)
    model.append(spectral_norm_of(spectral))
    weights = converted(model.eval(), tmp_path)
    REMOVE_WEIGHT_NORM(model[0])
    REMOVE_WEIGHT_NORM(model[1])
    REMOVE_SPECTRAL_NORM(model[2])
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(weights[name], expected, rtol=2e-6, atol=1e-9)


def spectral_norm_of(layer: nn.Module) -> nn.Module:
    spectral_norm(layer)
    layer(torch.randn(1, 700))
    return layer


def test_any_range_reads_the_same_bytes(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(33, 21))
    weight_norm(model[0])
    torch.save(model.state_dict(), tmp_path / "parts.pth")
    ckptconv.convert(tmp_path / "parts.pth", tmp_path / "half.safetensors", edits=ckptconv.Edits(
        remove_parametrizations=True, dtype=["BF16"],
    ))  # fmt: skip
    REMOVE_WEIGHT_NORM(model[0])
    assert torch.allclose(load_file(tmp_path / "half.safetensors")["0.weight"].float(), model[0].weight, rtol=2**-8)


def test_an_optimizer_that_still_has_the_parts_is_a_warning(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3))
    weight_norm(model[0])
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pth")
    for bare, warnings_expected in ((False, ["extras-of-parts"]), (True, [])):
        done = ckptconv.convert(tmp_path / "a.pth", tmp_path / f"{bare}.pth", edits=PLAIN, bare=bare)
        assert [finding.code for finding in done.findings if finding.severity == "warning"] == warnings_expected


def test_inspect_counts_them(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    weight_norm(model[0])
    weight_norm(model[1])
    prune.identity(model[2], "bias")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    inspection = ckptconv.inspect(tmp_path / "a.pth")
    assert inspection.parametrized == {"weight_norm": 2, "pruned": 1}
    assert inspection.to_dict()["parametrized"] == {"weight_norm": 2, "pruned": 1}
    parametrizations.orthogonal(model[3])
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").parametrized["unknown"] == 1


def test_a_network_without_such_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EditError, match="finds no weight that is pruned"):
        converted(nn.Linear(2, 3), tmp_path)
    assert not (tmp_path / "plain.safetensors").exists()


def test_a_pruned_part_of_a_normalized_weight_is_computed_first(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    weight_norm(model[0])
    spectral_norm(model[1])
    for layer, name in ((model[0], "weight_v"), (model[1], "weight_orig")):
        prune.random_unstructured(layer, name, 0.3)
    model(torch.randn(2, 5))
    model.eval()(torch.randn(2, 5))
    expected = {f"{i}.weight": model[i].weight.detach() for i in range(2)}
    weights = converted(model, tmp_path)
    assert sorted(weights) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight)


@pytest.mark.parametrize("shape", [(8,), (1, 1, 8), ()], ids=str)
def test_two_vectors_of_one_shape_are_no_weight_norm(shape: tuple[int, ...], tmp_path: Path) -> None:
    """RWKV's time_mix_v and time_mix_g, and others of its gates."""
    torch.save({f"att.time_mix_{letter}": torch.ones(shape) for letter in "kvrg"}, tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").parametrized == {}
    with pytest.raises(EditError, match="finds no weight"):
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", edits=PLAIN)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(1, 4), lambda: nn.Conv1d(4, 4, 1, groups=4)], ids=["in", "deep"])
def test_norms_of_single_elements_are_known_along_the_first_dimension(
    layer: Callable[[], nn.Module], tmp_path: Path
) -> None:
    model: Any = nn.Sequential(layer())
    weight_norm(model[0])
    weights = converted(model, tmp_path)
    REMOVE_WEIGHT_NORM(model[0])
    torch.testing.assert_close(weights["0.weight"], model[0].weight.detach())


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).T


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.orthogonal,
        lambda module: parametrize.register_parametrization(module, "weight", Symmetric()),
        lambda module: parametrizations.spectral_norm(orthogonal(module)),
    ],
    ids=["orthogonal", "the user's own", "a chain"],
)
def test_what_only_code_says_is_refused_by_name(change: Callable[[nn.Module], object], tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4))
    change(model[0])
    with pytest.raises(
        EditError, match=r"'0\.weight' is parametrized by a class that the file does not name"
    ) as caught:
        converted(model, tmp_path)
    assert caught.value.hint is not None and "remove_parametrizations(model.0, 'weight')" in caught.value.hint


def orthogonal(module: nn.Module) -> nn.Module:
    return parametrizations.orthogonal(module)


def test_diff_compares_them_with_plain_weights(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Conv1d(3, 4, 5), nn.Linear(4, 2))
    weight_norm(model[0])
    prune.random_unstructured(model[1], "weight", 0.5)
    torch.save(model.state_dict(), tmp_path / "parts.pth")
    REMOVE_WEIGHT_NORM(model[0])
    prune.remove(model[1], "weight")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    for pair in (("parts.pth", "plain.pth"), ("plain.pth", "parts.pth")):
        result = ckptconv.diff(*(tmp_path / name for name in pair), ulp=4)
        assert result.equal
        assert "parametrizations-removed" in [finding.code for finding in result.findings]


def test_rules_say_the_same(tmp_path: Path) -> None:
    model: Any = nn.Sequential(nn.Conv1d(3, 4, 5))
    weight_norm(model[0])
    weights = converted(model, tmp_path)
    (tmp_path / "rules.toml").write_text(
        '[[edits]]\nkind = "remove-parametrization"\nscheme = "weight_norm"\naxis = 0\n'
        'sources = ["{*}_v", "{*}_g"]\ntargets = ["{*}"]\n'
    )
    edits = ckptconv.Edits(names=[tmp_path / "rules.toml"])
    ckptconv.convert(tmp_path / "parts.pth", tmp_path / "ruled.safetensors", edits=edits)
    assert torch.equal(load_file(tmp_path / "ruled.safetensors")["0.weight"], weights["0.weight"])


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ('scheme = "norm"\nsources = ["v", "g"]', "there is no scheme 'norm'"),
        ('scheme = "weight_norm"\nsources = ["v", "g", "u"]', "takes 2 tensors, and not 3"),
        ('scheme = "weight_norm"\nsources = ["v", "g"]', "g has 3 elements, and not 1"),
        ('scheme = "weight_norm"\naxis = 7\nsources = ["v", "g"]', "there is no dimension 7"),
        ('scheme = "spectral_norm"\nsources = ["v", "g", "u"]', "are not for"),
        ('scheme = "pruned"\nsources = ["v", "g"]', "a mask of"),
        ('scheme = "pruned"\nsources = ["v", "i"]', "I64 is not computed with"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_refused(rule: str, problem: str, tmp_path: Path) -> None:
    tensors = {"v": torch.ones(3, 2), "g": torch.ones(3, 1), "u": torch.ones(9), "i": torch.ones(3, 2).long()}
    torch.save(tensors, tmp_path / "parts.pth")
    (tmp_path / "r.toml").write_text(f'[[edits]]\nkind = "remove-parametrization"\n{rule}\ntargets = ["w"]\n')
    with pytest.raises(EditError, match=problem):
        ckptconv.convert(
            tmp_path / "parts.pth", tmp_path / "x.safetensors", edits=ckptconv.Edits(names=[tmp_path / "r.toml"])
        )
