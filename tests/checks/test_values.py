"""With `values`, every tensor is read: NaN and Inf are errors, zeros and negative variances warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are saved with torch.save")

from ckptconv.api.open import open  # noqa: E402
from ckptconv.api.validate import validate  # noqa: E402
from ckptconv.checks.values import check_values  # noqa: E402
from tests.checks.mutants import healthy  # noqa: E402
from tests.checks.support import codes  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.core.report import Finding


def checked(tmp_path: Path, state: dict[str, Any]) -> list[Finding]:
    torch.save(state, tmp_path / "x.pth")
    with open(tmp_path / "x.pth") as checkpoint:
        return check_values(checkpoint)


def run_hint(hint: str | None, state: dict[str, Any]) -> Any:
    scope = {"state_dict": state, "torch": torch}
    assert hint is not None
    exec(f"result = {hint}" if "=" not in hint else hint, scope)
    return scope.get("result")


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2]
)
def test_nan_and_inf_are_counted(tmp_path: Path, dtype: Any) -> None:
    values = torch.ones(2, 3)
    values[0, 1], values[1, 2], values[1, 0] = float("nan"), float("inf"), float("-inf")
    (found,) = checked(tmp_path, {"w": values.to(dtype)})
    assert (found.code, found.severity, found.where) == ("non-finite", "error", "w")
    assert "1 NaN and 2 Inf among 6 values" in found.message


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_the_hint_for_nan_shows_where_they_are(tmp_path: Path, dtype: Any) -> None:
    state = {"it's": torch.tensor([[1.0, 2.0], [float("nan"), 4.0]]).to(dtype)}
    (found,) = checked(tmp_path, state)
    assert run_hint(found.hint, state).tolist() == [[1, 0]]


def test_a_checkpoint_with_nan_is_invalid_only_where_values_are_asked_for(tmp_path: Path) -> None:
    document = healthy(6, [5, 4], 3)
    document["state_dict"]["output.bias"][1] = float("nan")
    torch.save(document, tmp_path / "x.pth")
    assert validate(tmp_path / "x.pth").valid
    result = validate(tmp_path / "x.pth", values=True)
    assert not result.valid
    assert codes(result.findings) == ["non-finite"]


def test_weights_that_are_all_zero_are_a_warning(tmp_path: Path) -> None:
    (found,) = checked(tmp_path, {"a.weight": torch.zeros(3, 2), "b.weight": -torch.zeros(2), "c": torch.eye(2)})[:1]
    assert (found.code, found.severity, found.where) == ("all-zero", "warning", "a.weight")
    assert len(checked(tmp_path, {"a.weight": torch.zeros(3, 2), "b.weight": -torch.zeros(2)})) == 2


def test_tensors_that_are_often_zero_are_not_mentioned(tmp_path: Path) -> None:
    fine = [
        "a.bias",
        "bn.running_mean",
        "bn.num_batches_tracked",
        "ln.beta",
        "attn.in_proj_bias",
        "bias_hh_l0",
        "bias",
        "scalar",
    ]
    state = {name: torch.zeros(4 if name != "scalar" else ()) for name in fine}
    assert not checked(
        tmp_path, {**state, "empty.weight": torch.zeros(0, 3), "flags": torch.zeros(3, dtype=torch.bool)}
    )


def test_a_negative_running_variance_is_a_warning_that_the_hint_mends(tmp_path: Path) -> None:
    state = {"bn.running_var": torch.tensor([1.0, -1e-6, 2.0]), "other": torch.tensor([-1.0])}
    (found,) = checked(tmp_path, state)
    assert (found.code, found.severity, found.where) == ("negative-variance", "warning", "bn.running_var")
    run_hint(found.hint, state)
    assert not checked(tmp_path, state)


def test_tied_tensors_are_read_and_reported_once(tmp_path: Path) -> None:
    weight = torch.full((3,), float("nan"))
    assert len(checked(tmp_path, {"a": weight, "b": weight})) == 1
    assert len(checked(tmp_path, {"a": weight, "b": weight.clone()})) == 2


def test_progress_ends_at_all_bytes(tmp_path: Path) -> None:
    torch.save(healthy(6, [5], 3), tmp_path / "x.pth")
    seen: list[tuple[int, int]] = []
    validate(tmp_path / "x.pth", values=True, progress=lambda done, total: seen.append((done, total)))
    total = (6 * 5 + 5 + 5 * 3 + 3) * 4
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
