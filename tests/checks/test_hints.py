"""Hints are Python to be pasted: run in the order of the findings, they mend what can be mended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="hints are about torch's tensors")

from ckptconv.checks.validate import compare  # noqa: E402
from ckptconv.core.dtypes import DType  # noqa: E402
from tests.checks.support import checkpoint, decoder, perceptron, table  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.report import Finding

NETWORK = perceptron(784, 512, 256, 10)
DECODER = decoder(12)
CONVOLUTION = {
    "conv.weight": (32, 16, 3, 5),
    "norm.weight": (32,),
    "norm.num_batches_tracked": (),
    "fc.weight": (10, 32),
}
TYPES = {torch.float32: DType.F32, torch.float16: DType.F16, torch.int64: DType.I64}


def follow(
    findings: Iterable[Finding], shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the hints make of a state_dict of these shapes: its shapes, its types, who shares whose memory."""
    state = {name: torch.zeros(shape, dtype=(dtypes or {}).get(name, torch.float32)) for name, shape in shapes.items()}
    scope: dict[str, Any] = {"state_dict": state, "torch": torch}
    for finding in findings:
        assert finding.hint is not None, finding
        exec(finding.hint, scope)
    return scope["state_dict"]


def mended(expected: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    findings = compare(checkpoint(shapes), table(expected))
    assert findings
    state = follow(findings, shapes)
    after = checkpoint({name: tuple(tensor.shape) for name, tensor in state.items()})
    assert not compare(after, table(expected))
    return findings


def test_a_wrappers_prefix_is_taken_off() -> None:
    (found,) = mended(NETWORK, {"module." + name: shape for name, shape in NETWORK.items()})
    assert found.hint == "state_dict = {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}"


def test_a_missing_prefix_is_put_on_those_names_alone_that_lack_it() -> None:
    (found,) = mended(DECODER, {name.removeprefix("model."): shape for name, shape in DECODER.items()})
    assert found.hint is not None and "startswith" in found.hint


def test_faults_under_a_prefix_are_mended_after_it() -> None:
    shapes = {"module." + name: shape for name, shape in DECODER.items()}
    shapes |= {"module.lm_head.weight": (8, 50), "module.extra": (3,)}
    assert len(mended(DECODER, shapes)) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [("norm.weight", "norm.gamma"), ("model.layers.", "model.h."), ("attn", "attention"), ("attn.q_proj", "attn.query"),
     ("model.layers.", "layers_of.the.model."), (".mlp.", ".mlp.inner.")],
)  # fmt: skip
def test_many_renames_are_undone_by_one_line(old: str, new: str) -> None:
    findings = mended(DECODER, {name.replace(old, new): shape for name, shape in DECODER.items()})
    assert len(findings) <= 3


def test_numbers_that_moved_are_renamed_by_a_pattern() -> None:
    shapes = {re.sub(r"layers\.(\d+)", r"layer_\1", name): shape for name, shape in DECODER.items()}
    (found,) = mended(DECODER, shapes)
    assert found.hint is not None and "re.sub" in found.hint


def test_a_word_that_other_names_have_too_is_not_replaced_there() -> None:
    expected = {f"layers.{i}.{kind}.weight": (4, i + 1) for i in range(5) for kind in ("a", "b")} | {"data.a.c": (1,)}
    mended(expected, {name.replace(".a.w", ".data.w"): shape for name, shape in expected.items()})


def test_layers_too_many_are_dropped() -> None:
    mended(DECODER, decoder(14))


def test_one_expert_too_many_in_each_layer_is_dropped() -> None:
    expected = {f"layers.{i}.experts.{j}.w": (3, 2) for i in range(3) for j in range(4)}
    more = {f"layers.{i}.experts.{j}.w": (3, 2) for i in range(3) for j in range(5)}
    assert len(mended(expected, more)) == 3


def test_a_transposed_matrix_is_turned() -> None:
    mended(NETWORK, NETWORK | {"output.weight": (256, 10)})


def test_a_kernel_of_another_framework_is_turned() -> None:
    mended(CONVOLUTION, CONVOLUTION | {"conv.weight": (3, 5, 16, 32)})


def test_kernels_for_weights_are_renamed_and_turned() -> None:
    shapes = {name.replace("weight", "kernel"): shape[::-1] for name, shape in NETWORK.items()}
    mended(NETWORK, shapes)


def test_swapped_tensors_are_swapped_back() -> None:
    mended(NETWORK, NETWORK | {"output.weight": (256, 512), "hidden_layers.1.weight": (10, 256)})


def test_shapes_that_differ_in_ones_are_reshaped() -> None:
    mended(CONVOLUTION, CONVOLUTION | {"fc.weight": (10, 32, 1, 1), "norm.weight": (1, 32)})


def test_a_lost_batch_counter_is_set_to_zero() -> None:
    shapes = {name: shape for name, shape in CONVOLUTION.items() if name != "norm.num_batches_tracked"}
    there = checkpoint(shapes, versions={"norm": {"version": 2}})
    (found,) = compare(there, table(CONVOLUTION))
    assert "norm.num_batches_tracked" in follow([found], shapes)


def test_an_unexpected_tensor_is_deleted() -> None:
    mended(NETWORK, {**NETWORK, "it's": (3,), 'say "so"\n': (2, 2)})


def test_another_element_type_is_cast() -> None:
    wanted = table(NETWORK, dtypes={"output.bias": frozenset({"F32"})})
    findings = compare(checkpoint(NETWORK, dtypes={"output.bias": DType.F16}), wanted)
    assert follow(findings, NETWORK, {"output.bias": torch.float16})["output.bias"].dtype is torch.float32


def test_a_broken_tie_is_tied() -> None:
    findings = compare(checkpoint(DECODER), table(DECODER, tied_to={"lm_head.weight": "model.embed.weight"}))
    state = follow(findings, DECODER)
    assert state["lm_head.weight"] is state["model.embed.weight"]


def test_what_cannot_be_mended_has_no_hint() -> None:
    (found,) = compare(checkpoint(NETWORK | {"output.weight": (11, 256)}), table(NETWORK))
    assert found.hint is None
    (found,) = compare(checkpoint({k: v for k, v in NETWORK.items() if k != "output.bias"}), table(NETWORK))
    assert found.hint is None


def experts(layers: int, count: int) -> dict[str, tuple[int, ...]]:
    return {
        f"layers.{i}.experts.{j}.{name}": shape
        for i in range(layers)
        for j in range(count)
        for name, shape in (("down.weight", (8, 12)), ("down.bias", (8,)))
    }


def stacked(layers: int, count: int) -> dict[str, tuple[int, ...]]:
    return {
        f"layers.{i}.experts.{name}": shape
        for i in range(layers)
        for name, shape in (("down_proj", (count, 8, 12)), ("down_bias", (count, 8)))
    }


QKV = {f"layers.{i}.attn.{part}.weight": (rows, 6) for i in range(5) for part, rows in (("q", 6), ("k", 2), ("v", 2))}
WHOLE = {f"layers.{i}.attn.qkv.weight": (10, 6) for i in range(5)}
WIDE = {name: shape[::-1] for name, shape in QKV.items()}
WIDE_WHOLE = {name: shape[::-1] for name, shape in WHOLE.items()}


@pytest.mark.parametrize(
    ("expected", "found", "code", "count"),
    [
        (QKV, WHOLE, "fused", 1),
        (WHOLE, QKV, "apart", 1),
        (WIDE, WIDE_WHOLE, "fused", 1),
        (WIDE_WHOLE, WIDE, "apart", 1),
        (experts(3, 4), stacked(3, 4), "fused", 2),
        (stacked(3, 4), experts(3, 4), "apart", 2),
        ({"a.w": (2, 3), "b.w": (4, 3)}, {"ab.w": (6, 3)}, "fused", 1),
        ({"h7.q.w": (2, 3), "h7.k.w": (4, 3)}, {"h7.qk.w": (6, 3)}, "fused", 1),
    ],
)  # fmt: skip
def test_tensors_that_are_one_or_several_are_reported_and_mended(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], code: str, count: int
) -> None:
    findings = mended(expected, found)
    assert [finding.code for finding in findings] == [code] * count


def test_parts_are_copies_that_keep_nothing_of_the_whole() -> None:
    state = follow(compare(checkpoint(WHOLE), table(QKV)), WHOLE)
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in state.values())


def test_a_line_for_each_where_no_loop_says_it() -> None:
    places = [(0, 0), (0, 1), (1, 0)]
    expected = {f"a.{i}.b.{j}.{part}.w": (2, 3) for i, j in places for part in ("q", "k")}
    (found,) = mended(expected, {f"a.{i}.b.{j}.qk.w": (4, 3) for i, j in places})
    assert found.hint is not None
    assert found.hint.count(";") == 2


@pytest.mark.parametrize("name", ["it's", 'a "b', "{x}", "}", "back\\slash", "line\nfeed"])
def test_odd_names_are_mended_too(name: str) -> None:
    expected = {f"{name}.{i}.{part}.w": (2, 3) for i in range(3) for part in ("q", "k")}
    mended(expected, {f"{name}.{i}.qk.w": (4, 3) for i in range(3)})


def test_no_line_where_it_would_be_too_long() -> None:
    expected = {f"a.{i}.b.{j}.{part}.w": (2, 3) for i in range(3) for j in range(3) for part in ("q", "k")}
    (found,) = compare(checkpoint({f"a.{i}.b.{j}.qk.w": (4, 3) for i in range(3) for j in range(3)}), table(expected))
    assert (found.code, found.hint) == ("fused", None)


def test_sizes_that_fit_nothing_are_left_missing() -> None:
    findings = compare(checkpoint({"attn.qkv.weight": (11, 6)}), table({f"attn.{p}.weight": (4, 6) for p in "qkv"}))
    assert {finding.code for finding in findings} == {"missing-tensor", "unexpected-tensor"}
