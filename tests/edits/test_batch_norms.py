"""Batch norms that were folded into the layers before them, against torch's own folding and its exporters."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import ckptconv
from ckptconv.edits.batch_norms import find
from ckptconv.edits.batch_norms.free import Free
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from pathlib import Path


def trained(*layers: nn.Module) -> Any:
    """A network in eval mode whose norms are not those of a new one."""
    torch.manual_seed(4)
    network = nn.Sequential(*layers)
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features)
            layer.running_var = torch.rand(layer.num_features) + 0.3
            if layer.affine:
                nn.init.uniform_(layer.weight, -1.5, 1.5)
                nn.init.normal_(layer.bias)
    return network.eval()


def saved(path: Path, module: nn.Module) -> Path:
    torch.save(module.state_dict(), path)
    return path


def codes(result: ckptconv.Difference) -> list[str]:
    return [finding.code for finding in result.findings]


def exported(network: nn.Module, given: torch.Tensor, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (given,), path, **options)
    return path


FUSED = {
    "Conv2d": lambda: (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), fuse_conv_bn_eval),
    "without a bias": lambda: (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), fuse_conv_bn_eval),
    "of another eps": lambda: (nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4, eps=0.00173), fuse_conv_bn_eval),
    "without weight and bias": lambda: (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6, affine=False), fuse_conv_bn_eval),
    "ConvTranspose2d": lambda: (
        nn.ConvTranspose2d(5, 8, 2), nn.BatchNorm2d(8), lambda a, b: fuse_conv_bn_eval(a, b, transpose=True),
    ),
    "square ConvTranspose1d": lambda: (
        nn.ConvTranspose1d(8, 8, 4), nn.BatchNorm1d(8), lambda a, b: fuse_conv_bn_eval(a, b, transpose=True),
    ),
    "depthwise": lambda: (nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), fuse_conv_bn_eval),
    "Linear": lambda: (nn.Linear(7, 5), nn.BatchNorm1d(5), fuse_linear_bn_eval),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_diff_knows_what_torch_folded(case: str, tmp_path: Path) -> None:
    layer, norm, fuse = FUSED[case]()
    network = trained(layer, norm, nn.Flatten())
    fused = nn.Sequential(fuse(network[0], network[1]), nn.Flatten())
    a, b = saved(tmp_path / "a.pth", network), saved(tmp_path / "b.pth", fused)
    for pair in ((a, b), (b, a)):
        result = ckptconv.diff(*pair, rtol=1e-5, atol=1e-6)
        assert result.equal, result.findings
        assert result.tensors == (2, 2)
        assert "batch-norms-folded" in codes(result)


def test_diff_of_an_exported_graph_is_of_a_few_units_in_the_last_place(tmp_path: Path) -> None:
    network = trained(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip
    saved(tmp_path / "a.pth", network)
    exported(network, torch.randn(1, 3, 8, 8), tmp_path / "a.onnx", dynamo=False)
    result = ckptconv.diff(tmp_path / "a.pth", tmp_path / "a.onnx")
    assert {*codes(result)} == {"batch-norms-folded", "value-changed"}
    assert all((values.max_ulp or 0) <= 8 for values in result.values.values())
    raw = ckptconv.diff(tmp_path / "a.pth", tmp_path / "a.onnx", translate=False)
    assert "layers-removed" in codes(raw)


def test_what_diff_found_puts_other_weights_into_the_exported_graph(tmp_path: Path) -> None:
    network = trained(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2))
    saved(tmp_path / "old.pth", network)
    exported(network, torch.randn(1, 3, 8, 8), tmp_path / "old.onnx", dynamo=False)
    found = ckptconv.diff(tmp_path / "old.pth", tmp_path / "old.onnx")
    (tmp_path / "edits.json").write_text(json.dumps(found.to_dict()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) / 3)
    edits, options = ckptconv.Edits(names=[tmp_path / "edits.json"]), {"template": str(tmp_path / "old.onnx")}
    ckptconv.convert(saved(tmp_path / "new.pth", network), tmp_path / "new.onnx", edits=edits, options=options)
    given = torch.randn(1, 3, 8, 8)
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), network(given).detach(), rtol=1e-5, atol=1e-5)


def test_verify_does_not_say_that_folded_weights_have_no_effect(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten())\n"
    )
    network = trained(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten())
    saved(tmp_path / "a.pth", network)
    batch = torch.export.Dim("batch")
    shapes = ({0: batch},)
    exported(network, torch.randn(2, 3, 4, 4), tmp_path / "a.onnx", dynamo=True, dynamic_shapes=shapes)
    result = ckptconv.verify(tmp_path / "a.pth", tmp_path / "a.onnx", arch=f"{tmp_path / 'net.py'}:Net")
    assert result.equivalent
    found = [finding.code for finding in result.findings]
    assert "batch-norms-folded" in found and "without-effect" not in found


@pytest.mark.parametrize("trained_norms", [False, True])
def test_norms_under_other_names_are_not_folded(trained_norms: bool, tmp_path: Path) -> None:
    """Those of a new network have nearly no effect, so that any layer would be the same with them folded."""
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    network = trained(*layers) if trained_norms else nn.Sequential(*layers)
    a = saved(tmp_path / "a.pth", network)
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "b.pth")
    new = {f"{'abcde'[int(name[0])]}.{name[2:]}": tensor for name, tensor in network.state_dict().items()}
    torch.save(new, tmp_path / "c.pth")
    torch.save({name: tensor for name, tensor in new.items() if "running" not in name}, tmp_path / "d.pth")
    for other in ("b.pth", "c.pth", "d.pth"):
        result = ckptconv.diff(a, tmp_path / other)
        assert not result.equal
        assert "batch-norms-folded" not in codes(result)


def test_a_new_network_that_was_folded_is_told_by_its_eps(tmp_path: Path) -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    fused = nn.Sequential(fuse_conv_bn_eval(network[0], network[1]))
    result = ckptconv.diff(saved(tmp_path / "a.pth", network), saved(tmp_path / "b.pth", fused), ulp=4)
    assert result.equal and "batch-norms-folded" in codes(result)


def test_a_norm_that_is_gone_without_being_folded_is_removed(tmp_path: Path) -> None:
    network = trained(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    a, b = saved(tmp_path / "a.pth", network), saved(tmp_path / "b.pth", nn.Sequential(network[0]))
    result = ckptconv.diff(a, b)
    assert codes(result) == ["layers-removed"]


def test_a_folded_bias_is_not_one_that_both_files_have(tmp_path: Path) -> None:
    """A norm of zeros, as those that begin a residual branch, has the folded bias of any new norm."""
    plain = {"a.weight": torch.randn(4, 3, 1), "kept.bias": torch.zeros(4)}
    norm = {f"norm.{name}": tensor for name, tensor in nn.BatchNorm1d(4).state_dict().items()}
    norm["norm.weight"] = torch.zeros(4)
    new = {"kept.bias": torch.zeros(4), "new_bias": torch.zeros(4), "new_weight": torch.zeros(4, 3, 1)}
    torch.save(plain | norm, tmp_path / "a.pth")
    torch.save(new, tmp_path / "b.pth")
    result = ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth", atol=0.0, rtol=1e-5)
    assert result.equal, result.findings
    assert next(step.targets for edit in result.edits for step in edit.steps) == ("new_weight", "new_bias")


def of_layers(count: int, channels: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """So many small layers with a norm each, and what an exporter makes of them."""
    torch.manual_seed(5)
    plain: dict[str, torch.Tensor] = {}
    folded: dict[str, torch.Tensor] = {}
    for i in range(count):
        network = trained(nn.Linear(3, channels, bias=False), nn.BatchNorm1d(channels))
        fused = fuse_linear_bn_eval(network[0], network[1])
        plain |= {f"{i}.{name}": tensor for name, tensor in network.state_dict().items()}
        folded |= {f"Gemm_{i:05}.w": fused.weight.detach(), f"Gemm_{i:05}.b": fused.bias.detach()}
    return plain, folded


def test_rounding_does_not_make_an_eps_of_its_own(tmp_path: Path) -> None:
    plain, folded = of_layers(50, 2)
    torch.save(plain, tmp_path / "a.pth")
    torch.save(folded, tmp_path / "b.pth")
    result = ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth")
    assert {edit.details["eps"] for edit in result.edits if edit.kind == "fold-batch-norm"} == {1e-5}


def test_finding_free_tensors_costs_no_pass_over_the_taken_ones() -> None:
    free: Free[int] = Free()
    for place in range(0, 100, 2):
        free.add(7, (place, f"t{place}", 0))
    for place in range(10, 60):
        free.take(7, place)
    assert [place for place, _, _ in free.before(7, 61, 3)] == [6, 8, 60]
    assert [place for place, _, _ in free.behind(7, 9, 2)] == [60, 62]
    assert [place for place, _, _ in free.first(7, 6)] == [0, 2, 4, 6, 8, 60]
    assert free.before(8, 9, 3) == []


@pytest.mark.parametrize("shape", [(4, 0), (0, 3, 1)], ids=str)
def test_layers_without_elements_are_not_looked_at(shape: tuple[int, ...], tmp_path: Path) -> None:
    norm = {f"1.{name}": tensor for name, tensor in nn.BatchNorm1d(shape[0]).state_dict().items()}
    torch.save({"0.weight": torch.ones(shape), **norm}, tmp_path / "a.pth")
    torch.save({"w": torch.ones(shape), "b": torch.ones(shape[0])}, tmp_path / "b.pth")
    assert "batch-norms-folded" not in codes(ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth"))


def test_a_value_that_changed_after_folding_is_reported_and_an_output_that_did_speaks_against_it(
    tmp_path: Path,
) -> None:
    network = trained(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    fused: Any = nn.Sequential(fuse_conv_bn_eval(network[0], network[1]))
    with torch.no_grad():
        fused[0].weight[4, 2, 1, 1] *= 1.001
    a = saved(tmp_path / "a.pth", network)
    result = ckptconv.diff(a, saved(tmp_path / "b.pth", fused), rtol=1e-5, atol=1e-6)
    errors = [(finding.code, finding.where) for finding in result.findings if finding.severity == "error"]
    assert errors == [("value-changed", "0.weight")]
    with torch.no_grad():
        fused[0].weight[5] *= 1.001
    result = ckptconv.diff(a, saved(tmp_path / "b.pth", fused), rtol=1e-5, atol=1e-6)
    assert "batch-norms-folded" not in codes(result)


def test_many_norms_that_were_not_folded_take_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {f"{i}.conv.weight": torch.randn(8, 4, 1, 1) for i in range(3000)}
    norms = {f"{i}.bn.{name}": torch.rand(8) for i in range(3000) for name in ("running_mean", "running_var")}
    torch.save({**layers, **norms}, tmp_path / "a.pth")
    torch.save({f"x{i}": torch.randn(8, 4, 1, 1) for i in range(3000)}, tmp_path / "b.pth")
    tried = 0

    def counted(tensor: Any, axis: int) -> Any:
        nonlocal tried
        tried += 1
        return rows_of(tensor, axis)

    rows_of = find._rows_of
    monkeypatch.setattr(find, "_rows_of", counted)
    with ckptconv.open(tmp_path / "a.pth") as a, ckptconv.open(tmp_path / "b.pth") as b:
        assert find.find_folds(a, b) == []
    assert tried < 200


RULE = """
[[edits]]
kind = "fold-batch-norm"
parts = ["weight", "bias", "gamma", "beta", "mean", "var"]
sources = ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
targets = ["0.weight", "0.bias"]
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rules_fold_a_norm_as_torch_does(dtype: torch.dtype, tmp_path: Path) -> None:
    network = trained(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    saved(tmp_path / "a.pth", network)
    (tmp_path / "fold.toml").write_text(RULE)
    edits = ckptconv.Edits(drop=["*.num_batches_tracked"], names=[tmp_path / "fold.toml"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", edits=edits)
    found = load_file(tmp_path / "b.safetensors")
    exact = nn.Sequential(fuse_conv_bn_eval(network[0].double(), network[1].double())).state_dict()
    assert found.keys() == exact.keys()
    for name, tensor in exact.items():
        assert torch.equal(found[name], tensor.to(dtype))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"var"]', '"eps"]', "parts says which of weight, bias"),
        ("parts =", "axis = 2\nparts =", "there is no dimension 2 of outputs"),
        ("parts =", "eps = 7\nparts =", "eps is a small number, and not 7"),
        ('"1.bias"', '"2.bias"', "beta has the shape"),
        ('["0.weight", "0.bias"]', '["0.weight"]', "it makes a weight and a bias"),
        ('"1.running_mean"', '"3"', "I64 is not computed with"),
    ],
)  # fmt: skip
def test_a_rule_that_does_not_fit_is_refused(old: str, new: str, problem: str, tmp_path: Path) -> None:
    state = trained(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).state_dict()
    torch.save({**state, "2.bias": torch.ones(3), "3": torch.ones(8).long()}, tmp_path / "a.pth")
    head, targets = RULE.split("targets")
    text = f"{head}targets{targets.replace(old, new)}" if old.startswith("[") else RULE.replace(old, new)
    (tmp_path / "fold.toml").write_text(text)
    with pytest.raises(EditError, match=re.escape(problem)):
        ckptconv.convert(
            tmp_path / "a.pth", tmp_path / "b.safetensors", edits=ckptconv.Edits(names=[tmp_path / "fold.toml"])
        )


def test_a_folded_half_precision_export_is_recognised(tmp_path: Path) -> None:
    network = trained(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    fused = nn.Sequential(fuse_conv_bn_eval(network[0], network[1])).half()
    result = ckptconv.diff(saved(tmp_path / "a.pth", network), saved(tmp_path / "b.pth", fused))
    assert "batch-norms-folded" in codes(result)
    assert all((values.max_ulp or 0) <= 1 for values in result.values.values())
