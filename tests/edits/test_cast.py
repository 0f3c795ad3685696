"""Casts: torch's bits, one rounding, and what was lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.api.editing.edits import Edits
from ckptconv.core.arrays import TORCH_NAMES, numpy_dtype
from ckptconv.core.dtypes import BLOCKS, DTYPES, DType
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.edits import computed
from ckptconv.edits.cast import cast_tensor
from ckptconv.edits.computed import BLOCK, Computed, loss_of
from ckptconv.edits.ggml.quantize import Quantizer
from ckptconv.edits.rounding import LAST, Loss, cast_array, rounded_once
from ckptconv.errors import EditError, LossError, UsageError
from tests.support.nodes import load

if TYPE_CHECKING:
    from pathlib import Path

MANY = int(os.environ.get("CKPTCONV_RANDOM", str(1 << 20)))
FLOATS = ["F64", "F32", "F16", "BF16", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def every(dtype: DType) -> torch.Tensor:
    """Every value of a type of 8 or 16 bits, often enough that tables are used; random bits of F32."""
    if dtype is DType.F32:
        generator = torch.Generator().manual_seed(0)
        bits = torch.randint(-(1 << 31), (1 << 31) - 1, (MANY,), generator=generator).to(torch.int32)
        return torch.cat([bits.view(torch.float32), torch.randn(MANY // 4, generator=generator)])
    unsigned = torch.uint16 if dtype.bits == 16 else torch.uint8
    codes = torch.arange(1 << 16, dtype=torch.int32).remainder(1 << dtype.bits).to(unsigned)
    return codes.view(getattr(torch, TORCH_NAMES[dtype]))


def array(values: torch.Tensor, dtype: DType) -> np.ndarray[Any, Any]:
    return values.view(BITS[values.element_size()]).numpy().view(numpy_dtype(dtype))


@pytest.mark.parametrize("after", FLOATS)
@pytest.mark.parametrize("before", [name for name in FLOATS if name != "F64"])
def test_casts_are_torchs_bit_for_bit(before: str, after: str) -> None:
    """All values of up to 16 bits, a million of F32; which NaN it is torch does not promise."""
    if before == after:
        return
    values = every(DTYPES[before])
    expected = values.to(getattr(torch, TORCH_NAMES[DTYPES[after]]))
    cast, _ = cast_array(array(values, DTYPES[before]), DTYPES[before], DTYPES[after])
    size = expected.element_size()
    found = torch.from_numpy(cast.view(f"i{size}" if size > 1 else "u1").copy())
    with np.errstate(invalid="ignore"):
        nan = torch.from_numpy(np.isnan(cast.astype(np.float64)))
    wide = expected.double()
    alike = (found == expected.view(BITS[size])) | (nan & torch.isnan(wide))
    if after == "F8_E8M0":  # it has no sign: torch forgets it, and here it is NaN, which is said
        alike |= nan & torch.signbit(values.double())
    assert alike.all(), values[~alike][:3]


@pytest.mark.parametrize("after", ["F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2"])
def test_the_nearest_number_is_taken_and_of_two_the_even_one(after: str) -> None:
    """By looking through all numbers that there are, which torch cannot do for types of under 8 bits."""
    dtype = DTYPES[after]
    codes = np.arange(1 << (dtype.bits - 1), dtype=np.uint8)  # those from 0 on, in order
    numbers = codes.view(numpy_dtype(dtype)).astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    ties = (numbers[:-1] + numbers[1:]) / 2
    near = np.concatenate([numbers, ties, np.nextafter(ties, 0), np.nextafter(ties, 99), np.array([1e-30])])
    random = np.random.default_rng(0).uniform(0, numbers[-1], 5000)
    for values in (np.concatenate([near, random]), np.concatenate([near, random]).astype(np.float32)):
        distance = np.abs(values.astype(np.float64)[:, None] - numbers)
        best = distance == distance.min(axis=1, keepdims=True)
        first, last = best.argmax(axis=1), len(numbers) - 1 - best[:, ::-1].argmax(axis=1)
        expected = np.where(first % 2 == 0, first, last)
        before = DType.F64 if values.dtype == np.float64 else DType.F32
        for sign in (1, -1):
            cast, _ = cast_array(sign * values, before, dtype)
            top = np.uint8(1 << (dtype.bits - 1))
            got = cast.view(np.uint8) & np.uint8((1 << dtype.bits) - 1)
            assert ((got & ~top) == expected).all()
            assert ((got & top > 0) == (sign < 0)).all()


def test_f64_is_rounded_once() -> None:
    """By way of F32 1 + 2^-8 + 2^-40 would become a tie, and 1."""
    values = np.full(5000, 1 + 2.0**-8 + 2.0**-40)
    assert values.astype(np.float32).astype(ml_dtypes.bfloat16)[0] == 1
    for sign in (1, -1):
        assert (cast_array(sign * values, DType.F64, DType.BF16)[0].astype(np.float64) == sign * (1 + 2.0**-7)).all()
    huge, tiny = np.full(5000, 1e300), np.full(5000, 1e-300)
    assert np.isinf(cast_array(huge, DType.F64, DType.BF16)[0].astype(np.float32)).all()
    assert cast_array(huge, DType.F64, DType.BF16)[1].overflowed == 5000
    assert cast_array(tiny, DType.F64, DType.F8_E5M2)[1].flushed == 5000


def test_a_nan_keeps_its_sign_and_payload_in_bf16() -> None:
    bits = np.tile(np.array([0x7FC1_2345, 0xFF81_0000, 0x7F80_0001], dtype=np.uint32), 2000)
    cast, _ = cast_array(bits.view(np.float32), DType.F32, DType.BF16)
    assert [hex(code) for code in cast.view(np.uint16)[:3]] == ["0x7fc1", "0xff81", "0x7fc0"]


@pytest.mark.parametrize("count", [9, 9000])  # the long way, and by tables
@pytest.mark.parametrize(
    ("after", "past", "kept"),
    [("F16", 65520, 65519), ("BF16", 3.3961776e38, 3.396177e38), ("F8_E5M2", 61440, 61439), ("F8_E4M3", 464.1, 464),
     ("F8_E4M3FNUZ", 248, 247.9), ("F8_E5M2FNUZ", 61440, 61439), ("F6_E2M3", 7.75, 7.74), ("F6_E3M2", 30, 29.9),
     ("F4", 7, 6.9)],
)  # fmt: skip
def test_what_goes_past_the_range_is_counted(after: str, past: float, kept: float, count: int) -> None:
    dtype = DTYPES[after]
    for sign in (1, -1):
        values = np.array([sign * past, sign * kept, 0.5] * (count // 3), dtype=np.float32)
        cast, loss = cast_array(values, DType.F32, dtype)
        assert loss.overflowed == count // 3
        assert np.isfinite(cast.astype(np.float32)[0]) == (dtype in LAST)
        assert np.isfinite(cast.astype(np.float32)[1])
    special = np.array([np.inf, -np.inf, np.nan] * (count // 3), dtype=np.float32)
    lost = {"F4": 3, "F6_E2M3": 3, "F6_E3M2": 3, "F8_E4M3": 2}.get(after, 0)  # of NaN E4M3 has one
    if "FNUZ" not in after:
        assert cast_array(special, DType.F32, dtype)[1].overflowed == lost * count // 3


@pytest.mark.parametrize("after", ["F16", "BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F6_E3M2", "F4"])
def test_what_was_lost_is_what_a_plain_count_says(after: str) -> None:
    values = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    values[1::2] *= np.float32(0.01)
    values[::50] = 0
    with np.errstate(all="ignore"):
        for before in (DType.F32, DType.BF16, DType.F16):
            exact = values.astype(numpy_dtype(before))
            if before is DTYPES[after]:
                continue
            cast, loss = cast_array(exact, before, DTYPES[after])
            wide, back = exact.astype(np.float64), cast.astype(np.float64)
            flushed = (back == 0) & (wide != 0)
            good = np.isfinite(back) & (wide != 0) & ~flushed
            assert loss.flushed == flushed.sum()
            assert loss.overflowed == (~np.isfinite(back)).sum()
            assert loss.max_rel == pytest.approx((np.abs(back - wide)[good] / np.abs(wide)[good]).max(), rel=1e-5)


def test_integers_are_cut_and_what_they_cannot_hold_is_counted() -> None:
    values = np.array([1.9, -1.9, 0.4, 300.0, -300.0, np.nan, np.inf, 7.0])
    for before, floats in (
        (DType.F64, values),
        (DType.F32, values.astype(np.float32)),
        (DType.F16, values.astype(np.float16)),
    ):
        cast, loss = cast_array(floats, before, DType.I8)
        assert cast.tolist() == [1, -1, 0, 127, -128, 0, 127, 7]
        assert (loss.overflowed, loss.flushed) == (4, 1)
        many, loss = cast_array(np.tile(floats, 1000), before, DType.I8)
        assert many[:8].tolist() == cast.tolist()
        assert (loss.overflowed, loss.flushed) == (4000, 1000)
    wide = np.array([5, -1, 1 << 40, -(1 << 63)])
    assert cast_array(wide, DType.I64, DType.U8)[0].tolist() == [5, 0, 255, 0]
    assert cast_array(wide, DType.I64, DType.U8)[1].overflowed == 3
    assert cast_array(np.array([1e30, -1e30]), DType.F64, DType.I64)[0].tolist() == [2**63 - 1, -(2**63)]
    assert cast_array(np.array([1e30]), DType.F64, DType.U64)[0].tolist() == [2**64 - 1]
    assert cast_array(np.array([0.0, -2.0]), DType.F64, DType.BOOL)[0].tolist() == [False, True]
    exact = np.array([3, 1 << 24, -5])
    assert cast_array(exact, DType.I64, DType.BF16)[0].astype(np.float64).tolist() == [3, 1 << 24, -5]


# as it is asked for


def saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F4", "F6_E2M3"])
def test_a_cast_is_read_in_ranges(tmp_path: Path, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    source = saved(tmp_path / "a.pth", {"w": torch.randn(150_001, generator=generator), "t": torch.randn(401, 300).T})
    with ckptconv.open(source) as checkpoint:
        made, _ = apply_edits(checkpoint, Edits(dtype=[dtype]))
        for tensor in made.values():
            whole = bytes(tensor.read())
            assert len(whole) == tensor.info.nbytes
            for start in (0, 1, 7, 65_535, 65_537, len(whole) // 2, len(whole) - 3):
                for stop in (start, start + 1, start + 2, len(whole)):
                    if stop <= len(whole) and start <= stop:
                        assert bytes(tensor.read(start, stop)) == whole[start:stop]


def test_integers_are_left_unless_a_glob_asks_for_them(tmp_path: Path) -> None:
    state = {"w": torch.ones(3), "steps": torch.tensor(300), "mask": torch.tensor([True, False])}
    source = saved(tmp_path / "a.pth", state)
    ckptconv.convert(source, tmp_path / "b.pth", edits=Edits(dtype=["F16"]))
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert [tensor.dtype for tensor in found.values()] == [torch.float16, torch.int64, torch.bool]
    ckptconv.convert(source, tmp_path / "c.pth", edits=Edits(dtype=["F16", "steps=F32", "m*=U8", "w=BF16"]))
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    assert [tensor.dtype for tensor in found.values()] == [torch.bfloat16, torch.float32, torch.uint8]
    assert found["steps"] == 300
    with pytest.raises(LossError, match="1 loss"):
        ckptconv.convert(source, tmp_path / "d.pth", edits=Edits(dtype=["steps=I8"]))
    torch.save({"c": torch.ones(2, dtype=torch.complex64)}, source)
    with pytest.raises(EditError, match="C64 is not cast"):
        ckptconv.convert(source, tmp_path / "e.pth", edits=Edits(dtype=["c=F32"]))


@pytest.mark.parametrize(
    ("name", "small", "normal"), [("F16", 2.0**-20 * 1.3, 1.0 + 2**-11), ("F8_E4M3", 2.0**-8 * 1.3, 1.0 + 2**-4),
                                  ("BF16", 2.0**-130 * 1.3, 1.0 + 2**-8)],
)  # fmt: skip
def test_an_error_that_rounding_alone_does_not_make_is_explained(
    tmp_path: Path, name: str, small: float, normal: float
) -> None:
    for value, said in ((small, f", of values below {name}'s normal range"), (normal, "")):
        source = saved(tmp_path / "a.pth", {"w": torch.tensor([value, 1.0])})
        (cast,) = ckptconv.convert(source, tmp_path / "b.pth", force=True, edits=Edits(dtype=name)).findings
        error = abs(value - float(load(tmp_path / "b.pth")["w"][0])) / value
        assert cast.message == f"1 tensor is cast: the largest relative error is {error:.3g}{said}"


def test_a_dry_run_knows_what_overflows(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"big": torch.tensor([1e6, 1.0]), "small": torch.tensor([1e-9, 0.1])})
    seen: list[tuple[int, int]] = []
    planned = ckptconv.convert(
        source, tmp_path / "b.pth", dry_run=True, edits=Edits(dtype=["F16"]), progress=lambda *at: seen.append(at)
    )
    assert [(loss.code, loss.where, loss.found) for loss in planned.losses] == [("overflow", "big", "1")]
    (cast,) = [finding for finding in planned.findings if finding.code == "cast"]
    assert cast.message.startswith("2 tensors are cast: the largest relative error is 0.000")
    assert cast.message.endswith("1 value became 0")
    assert "normal range" not in cast.message
    assert seen[-1] == (8, 8)
    done = ckptconv.convert(source, tmp_path / "b.pth", allow_loss=["overflow"], edits=Edits(dtype=["F16"]))
    assert [loss.message for loss in done.losses] == ["big: 1 value is past the range of F16"]
    exact = ckptconv.convert(source, tmp_path / "c.pth", edits=Edits(dtype=["F64"]))
    assert "2 tensors are cast: exactly" in [finding.message for finding in exact.findings]


def test_a_damaged_source_is_found_while_it_is_cast(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"w": torch.randn(1000)})
    raw = bytearray(source.read_bytes())
    raw[raw.index(torch.load(source)["w"].numpy().tobytes()) + 2000] ^= 1
    source.write_bytes(raw)
    with pytest.raises(ckptconv.CkptconvError, match="'w' is damaged"):
        ckptconv.convert(source, tmp_path / "b.pth", edits=Edits(dtype=["BF16"]))
    assert not (tmp_path / "b.pth").exists()


def test_fp4_packs_two_numbers_into_a_byte(tmp_path: Path) -> None:
    values = torch.tensor([[0.0, 0.5, 1.0, 1.5], [2.0, 3.0, 4.0, -6.0]])
    source = saved(tmp_path / "a.pth", {"w": values})
    ckptconv.convert(source, tmp_path / "b.safetensors", edits=Edits(dtype=["F4"]))
    with ckptconv.open(tmp_path / "b.safetensors") as found:
        assert found["w"].info.nbytes == 4
        assert found["w"].numpy().astype("float32").tolist() == values.tolist()


def test_what_became_0_is_not_said_to_be_exact(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.pth", {"w": torch.tensor([1.0, 1e-8, 0.5])})
    made = ckptconv.convert(source, tmp_path / "b.pth", edits=Edits(dtype=["F16"]))
    (cast,) = [finding for finding in made.findings if finding.code == "cast"]
    assert cast.message == "1 tensor is cast: all else exactly; 1 value became 0"


def test_an_overflow_needs_consent_and_the_rest_is_reported(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 1e-8, 70000.0, float("inf"), float("nan"), 0.1, 0.0])
    source = saved(tmp_path / "a.pth", {"big": values, "small": torch.ones(3)})
    with pytest.raises(LossError) as caught:
        ckptconv.convert(source, tmp_path / "b.pth", edits=Edits(dtype=["F16"]))
    assert "big: 1 value is past the range of F16" in caught.value.details[0]
    assert not (tmp_path / "b.pth").exists()
    made = ckptconv.convert(source, tmp_path / "b.pth", allow_loss=["overflow"], edits=Edits(dtype=["F16"]))
    (cast,) = [finding for finding in made.findings if finding.code == "cast"]
    assert "1 value became 0" in cast.message
    assert float(cast.found or 1) == pytest.approx(abs(float(torch.tensor(0.1).half()) - 0.1) / 0.1, rel=1e-3)
    ckptconv.convert(source, tmp_path / "c.pth", edits=Edits(dtype=["F16", "big=F32"]))
    with pytest.raises(UsageError, match="no element type 'F17'"):
        ckptconv.convert(source, tmp_path / "d.pth", edits=Edits(dtype=["F17"]))


@pytest.mark.parametrize("after", [DType.BF16, DType.F32, DType.F16])
def test_rounding_once_is_rounding(after: DType) -> None:
    rng = np.random.default_rng(0)
    with np.errstate(invalid="ignore"):
        halves = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    halves = np.sort(halves[np.isfinite(halves)])
    between = (halves[1:] + halves[:-1]) / 2
    some = rng.standard_normal(5000)
    edges = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.3895e38, 3.39e38, 3.4e38, 65519.9, 65520, 1e-45, 1e300])
    for values in (halves, between, np.nextafter(between, 0), np.nextafter(between, np.inf), some, some * 1e-38, edges):
        made, overflowed = rounded_once(values, after)
        expected, loss = cast_array(values, DType.F64, after)
        assert made.tobytes() == expected.tobytes()
        assert overflowed == loss.overflowed


@pytest.mark.parametrize("dtype", [DType.F16, DType.F8_E4M3, BLOCKS["Q8_0"]])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 0, 2, 1), (0, 1, 2, 0, 1, 2)])
def test_what_blocks_lose_counts_once_in_any_order_and_is_not_kept_apart(
    dtype: DType, order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computed, "HEAVY", 1)  # so that what is in memory is computed in several pieces
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((3, 2 * BLOCK)) * 10.0 ** rng.integers(-9, 9, (3, 2 * BLOCK))).astype(np.float32)
    source = in_memory(TensorInfo.of(DType.F32, values.shape), values.tobytes())
    losses = []
    for rows in ((0, 1, 2), order):
        cast = cast_tensor(source, dtype)
        size = cast.info.nbytes // 3
        for row in rows:
            cast.read(row * size, (row + 1) * size)
        losses.append(loss_of(cast))
        assert isinstance(cast.reader, Computed)
        assert not cast.reader.blocks
    assert losses[0] == losses[1]
    assert losses[0] != Loss()


def test_nothing_is_kept_of_a_tensor_that_was_quantized_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed, "HEAVY", 1)
    values = np.zeros((2, BLOCK), np.float32)
    made = cast_tensor(in_memory(TensorInfo.of(DType.F32, values.shape), values.tobytes()), BLOCKS["Q8_0"])
    assert isinstance(made.reader, Quantizer)
    half = made.info.nbytes // 2
    made.read(0, half - 5)
    assert made.reader.last[1]
    made.read(half - 5, made.info.nbytes)
    assert not made.reader.last[1]
