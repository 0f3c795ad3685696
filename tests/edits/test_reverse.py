"""Rules that are made and undone: what comes back is what was there."""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptconv
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.edit import Edit, Step
from ckptconv.edits.apply import apply
from ckptconv.edits.invert import inverted, widens
from ckptconv.errors import EditError
from ckptconv.io.digest import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptconv.core.tensor import LazyTensor

Tensors = dict[str, "LazyTensor"]
MANY = int(os.environ.get("CKPTCONV_EXAMPLES", "100"))


def _rename(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit:
    return Edit("rename", (name,), (new,))


def _transpose(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit:
    axes = draw(st.permutations(range(len(tensors[name].info.shape))))
    return Edit("transpose", (name,), (name,), {"axes": list(axes)})


def _permute(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    shape = tensors[name].info.shape
    axis = draw(st.sampled_from(range(len(shape))))
    sizes = [2, -1, 2] if shape[axis] % 4 == 0 else [1, shape[axis]]
    axes = draw(st.permutations(range(len(sizes))))
    return Edit("permute", (name,), (new,), {"axis": axis, "shape": sizes, "axes": list(axes)})


def _reshape(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit:
    shape = tensors[name].info.shape
    other = [shape[0] * shape[1], *shape[2:]] if len(shape) > 1 else [2, -1] if shape[0] % 2 == 0 else [1, *shape]
    return Edit("reshape", (name,), (name,), {"shape": other, "from": list(shape)})


def _split(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    shape = tensors[name].info.shape
    axis = draw(st.sampled_from(range(len(shape))))
    blocks = draw(st.sampled_from([b for b in (1, 2, 3) if shape[axis] % b == 0]))
    first = draw(st.integers(0, shape[axis] // blocks)) * blocks
    details = {"axis": axis, "sizes": [first, shape[axis] - first], "blocks": blocks}
    return Edit("split", (name,), (new, f"{new}b"), details)


def _concat(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    info = tensors[name].info
    others = [n for n, t in tensors.items() if n != name and (t.info.shape, t.info.dtype) == (info.shape, info.dtype)]
    if not others:
        return None
    axis = draw(st.sampled_from(range(len(info.shape))))
    blocks = draw(st.sampled_from([b for b in (1, 2, 3) if info.shape[axis] % b == 0]))
    details = {"axis": axis, "sizes": [info.shape[axis]] * 2, "blocks": blocks}
    return Edit("concat", (name, draw(st.sampled_from(others))), (new,), details)


def _stack(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    edit = _concat(name, new, tensors, draw)
    axis = draw(st.integers(0, len(tensors[name].info.shape)))
    return None if edit is None else Edit("stack", edit.sources, (new,), {"axis": axis})


def _unstack(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    shape = tensors[name].info.shape
    axis = draw(st.sampled_from(range(len(shape))))
    if len(shape) == 1 or shape[axis] > 6:
        return None
    return Edit("unstack", (name,), tuple(f"{new}.{i}" for i in range(shape[axis])), {"axis": axis})


def _widen(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit | None:
    before = tensors[name].info.dtype
    wider = [d for n in ("F16", "BF16", "F32", "F64") if (d := DTYPES[n]) is not before and widens(before, d)]
    if not wider:
        return None
    after = draw(st.sampled_from(wider))
    return Edit("cast", (name,), (name,), {"dtype": after.name, "from": before.name})


def _tie(name: str, new: str, tensors: Tensors, draw: Callable[..., Any]) -> Edit:
    return Edit("tie", (name,), (new,), {"new": True})


MAKERS = (_rename, _transpose, _permute, _reshape, _split, _concat, _stack, _unstack, _widen, _tie)


@settings(max_examples=MANY)
@given(makers=st.lists(st.sampled_from(MAKERS), min_size=1, max_size=9), data=st.data())
def test_random_rules_undone_give_the_digest_of_the_start(
    tmp_path: Path, makers: list[Callable[..., Edit | None]], data: st.DataObject
) -> None:
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float16)
    state = {f"t{i}": torch.arange(48.0).reshape(2, 4, 6).add(48 * i).to(dtype) for i, dtype in enumerate(dtypes)}
    state["t4"] = state["t0"].transpose(0, 2)
    torch.save(state, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        tensors, edits = dict(checkpoint), []
        for number, maker in enumerate(makers):
            name = data.draw(st.sampled_from(sorted(n for n, t in tensors.items() if prod(t.info.shape))))
            edit = maker(name, f"n{number}", tensors, data.draw)
            if edit is not None:
                edits.append(replace(edit, steps=(Step(edit.sources, edit.targets),)))
                tensors = apply(tensors, edits[-1:])
        for tensor in tensors.values():  # any range of it is a range of the whole
            whole, middle = bytes(tensor.read()), tensor.info.nbytes // 3
            assert bytes(tensor.read(middle, 2 * middle)) == whole[middle : 2 * middle]
        back = Checkpoint(apply(tensors, inverted(edits)))
        assert digest(back) == digest(checkpoint)
        assert {name: t.info for name, t in back.items()} == {name: t.info for name, t in checkpoint.items()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("drop", ("a",), ()), "not in it"),
        (Edit("remove-layers", ("a",), ()), "not in it"),
        (Edit("concat", ("a", "b"), ("c",), {"axis": 0}), "lengths of the parts"),
        (Edit("permute", ("a",), ("a",), {"axes": [1, 0]}), "a size for each"),
        (Edit("transpose", ("a",), ("a",), {"axes": [1, 1]}), "needs 'axes'"),
        (Edit("cast", ("a",), ("a",), {"dtype": "BF16", "from": "F16"}), "does not hold all"),
        (Edit("cast", ("a",), ("a",), {"dtype": "I8", "from": "U8"}), "does not hold all"),
    ],
)
def test_what_cannot_be_undone_is_named(edit: Edit, words: str) -> None:
    with pytest.raises(EditError, match=r"edit 1, .* cannot be undone") as caught:
        inverted([edit])
    assert words in caught.value.message


def test_layers_that_were_inserted_are_removed_again() -> None:
    edit = Edit("insert-layers", (), ("h.{*}",), {}, (Step((), ("h.1.w",)),))
    (back,) = inverted([edit])
    assert (back.kind, back.steps) == ("remove-layers", (Step(("h.1.w",), ()),))


def test_what_widens_comes_back_bit_for_bit() -> None:
    """Every value of every type of up to 16 bits, into each that holds it, and back; which NaN it is may change."""
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype
    from ckptconv.edits.rounding import cast_array

    floats = [dtype for dtype in DTYPES.values() if dtype.kind == "float"]
    pairs = [(a, b) for a in floats for b in floats if a is not b and a.bits <= 16 and widens(a, b)]
    assert len(pairs) > 25
    with np.errstate(invalid="ignore"):
        for before, after in pairs:
            bits = np.uint16 if before.bits == 16 else np.uint8
            codes = (np.arange(1 << 16) & ((1 << before.bits) - 1)).astype(bits)
            values = codes.view(numpy_dtype(before))
            wide, loss = cast_array(values, before, after)
            back, _ = cast_array(wide, after, before)
            number = ~np.isnan(values.astype(np.float64))
            assert (back.view(bits)[number] == codes[number]).all(), (before, after)
            assert np.isnan(back.astype(np.float64)[~number]).all()
            assert (loss.overflowed, loss.flushed, loss.max_rel) == (0, 0, 0.0), (before, after)
