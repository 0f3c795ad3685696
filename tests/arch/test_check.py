"""The strict check, rule by rule."""

from __future__ import annotations

from ckptconv.arch.check import check
from ckptconv.arch.load import parse_text
from ckptconv.arch.table import expand
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo

SPEC = parse_text(
    'spec = 1\nname = "x"\n[params]\nn = "int"\ntied = { type = "bool", default = true }\n[tensors]\n'
    '"emb.weight" = "n 4"\n"head.weight" = { shape = "n 4", tied = { to = "emb.weight", when = "tied" } }\n'
    '"scale" = ""\n"bn.num_batches_tracked" = { shape = "", dtype = "I64" }\n"ids" = { shape = "n", optional = true }\n'
)
TABLE = expand(SPEC, {"n": 3})
UNTIED = expand(SPEC, {"n": 3, "tied": False})


def info(*shape: int, dtype: DType = DType.F32) -> TensorInfo:
    return TensorInfo.of(dtype, shape)


WHOLE = {
    "emb.weight": info(3, 4), "head.weight": info(3, 4), "scale": info(),
    "bn.num_batches_tracked": info(dtype=DType.I64), "ids": info(3),
}  # fmt: skip


def without(*names: str) -> dict[str, TensorInfo]:
    return {name: value for name, value in WHOLE.items() if name not in names}


def codes(*args: object, **options: object) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in check(*args, **options)]  # type: ignore[arg-type]


def test_what_fits_has_no_findings() -> None:
    assert codes(TABLE, WHOLE) == []


def test_a_tensor_tied_to_one_that_is_there_may_be_absent() -> None:
    assert codes(TABLE, without("head.weight")) == []
    assert codes(TABLE, without("emb.weight")) == []
    assert codes(TABLE, without("emb.weight", "head.weight")) == [
        ("missing-tensor", "emb.weight"), ("missing-tensor", "head.weight"),
    ]  # fmt: skip
    assert codes(UNTIED, without("head.weight")) == [("missing-tensor", "head.weight")]


def test_a_recorded_tie_counts_as_a_declared_one() -> None:
    assert codes(UNTIED, without("head.weight"), recorded_ties={"head.weight": "emb.weight"}) == []


def test_one_element_fits_a_scalar_but_not_the_other_way() -> None:
    assert codes(TABLE, {**WHOLE, "scale": info(1)}) == []
    assert codes(TABLE, {**WHOLE, "scale": info(1, 1)}) == [("shape-mismatch", "scale")]
    assert codes(TABLE, {**WHOLE, "scale": info(2)}) == [("shape-mismatch", "scale")]


def test_the_batch_counter_may_be_absent_unless_its_module_is_of_version_2() -> None:
    left = without("bn.num_batches_tracked")
    missing = [("missing-tensor", "bn.num_batches_tracked")]
    assert codes(TABLE, left) == []
    assert codes(TABLE, left, versions={"": {"version": 1}, "bn": {"version": 1}}) == []
    assert codes(TABLE, left, versions={"bn": {"version": 2}}) == missing
    assert codes(TABLE, left, versions={"bn": "odd"}) == []


def test_an_optional_tensor_may_be_absent_but_not_of_another_shape() -> None:
    assert codes(TABLE, without("ids")) == []
    assert codes(TABLE, {**WHOLE, "ids": info(4)}) == [("shape-mismatch", "ids")]


def test_what_is_too_much_is_unexpected_a_plain_value_too() -> None:
    assert codes(TABLE, {**WHOLE, "more": info(1)}) == [("unexpected-tensor", "more")]
    assert codes(TABLE, WHOLE, plain=["epoch"]) == [("unexpected-tensor", "epoch")]
    assert codes(TABLE, without("scale"), plain=["scale"]) == [("not-a-tensor", "scale")]


def test_element_types_and_broken_ties_are_warnings() -> None:
    other = {**WHOLE, "bn.num_batches_tracked": info()}
    found = check(TABLE, other, aliases={"emb.weight": 1, "head.weight": 2})
    assert [(finding.code, finding.severity) for finding in found] == [
        ("tie-broken", "warning"), ("dtype-mismatch", "warning"),
    ]  # fmt: skip
    assert check(TABLE, WHOLE, aliases={"emb.weight": 1, "head.weight": 1}) == []
    assert check(UNTIED, WHOLE, aliases={"emb.weight": 1, "head.weight": 2}) == []


def test_a_finding_says_what_was_expected_and_what_is_there() -> None:
    (finding,) = check(TABLE, {**WHOLE, "emb.weight": info(4, 3)})
    assert (finding.expected, finding.found) == ("[3, 4]", "[4, 3]")
