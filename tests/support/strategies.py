"""hypothesis strategies for checkpoints: metadata trees of every kind, tensor names, tensors in every layout."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import torch
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
"""Any string at all, lone surrogates and NUL included."""

BIG = st.integers(-(2**200), 2**200)
EDGES = st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 2**31, -(2**31) - 1, 255, 256])
INTS = st.integers() | BIG | EDGES
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 5e-324, 1.7e308])
TORCH = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
DEVICES = st.sampled_from([torch.device("cpu"), torch.device("cuda"), torch.device("cuda:1"), torch.device("meta")])
SIZES = st.lists(st.integers(0, 2**40), max_size=4).map(torch.Size)

PLAIN = st.none() | st.booleans() | INTS | FLOATS | TEXT | st.binary(max_size=12) | TORCH | DEVICES | SIZES
HASHABLE = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXT | st.binary(max_size=6) | TORCH,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
KEYS = TEXT | st.sampled_from(["format", "ckptconv", "$int", "$", "a.b", "a", "", "__metadata__"]) | HASHABLE


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Lists, tuples, sets, and every kind of dict that torch loads with `weights_only`."""
    items = st.lists(st.tuples(KEYS, inner), max_size=4)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(HASHABLE, max_size=4),
        items.map(dict),
        items.map(OrderedDict),
        st.dictionaries(HASHABLE, st.integers(-5, 5), max_size=4).map(Counter),
    )


METADATA = st.recursive(PLAIN | st.binary(max_size=12).map(bytearray), containers, max_leaves=20)
"""Trees that `torch.load(weights_only=True)` accepts."""

NUMPY = st.one_of(
    st.sampled_from(["<f8", "<f4", "<i8", "|b1", "|u1", "<c16", ">f4", "<U3", "|S4"]).flatmap(
        lambda code: st.lists(st.integers(0, 1), min_size=1, max_size=6).map(lambda v: np.array(v).astype(code))
    ),
    st.just(np.arange(6, dtype="<f4").reshape(2, 3).T),
    st.just(np.zeros((0, 3))),
    st.sampled_from([np.float64(0.1), np.float32(-0.0), np.int64(7), np.bool_(True), np.complex64(1j), np.str_("ab")]),
)


def typed_containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """The same containers, and those that require `weights_only=False`."""
    factories = st.sampled_from([None, list, dict, set, int, float, str, tuple, OrderedDict])
    items = st.lists(st.tuples(KEYS, inner), max_size=3)
    return st.one_of(
        containers(inner),
        st.frozensets(HASHABLE, max_size=4),
        st.tuples(factories, items).map(lambda pair: defaultdict(pair[0], pair[1])),
    )


HUGE = st.integers(4301, 6000).map(lambda digits: 7 ** int(digits / 0.8451))
TYPED = st.recursive(PLAIN | NUMPY | HUGE | st.complex_numbers(), typed_containers, max_leaves=12)
"""Trees that require `torch.load(weights_only=False)`."""

NAMES = (
    st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(
        ["__metadata__", "ckptconv", "format", "a.b", "a", "weight", "line\nfeed", "nul\0", "\ud800", "a#"]
    )
    | st.lists(st.sampled_from(["layers", "0", "1", "weight", "bias"]), min_size=1, max_size=4).map(".".join)
)

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex128, torch.complex64,
    torch.complex32, torch.float8_e5m2, torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz,
    torch.float8_e8m0fnu, torch.float4_e2m1fn_x2,
]  # fmt: skip


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor of any dtype and shape, as any kind of view that torch.save preserves."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), min_size=dtype is torch.float4_e2m1fn_x2, max_size=4))
    count = torch.Size(shape).numel()
    before, after = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    data = bytearray(_bytes(dtype, before + count + after))
    flat = torch.frombuffer(data, dtype=torch.uint8).view(dtype) if data else torch.empty(0, dtype=dtype)
    view = flat[before : before + count].view(shape)
    for step in draw(st.lists(st.sampled_from(["t", "step", "expand", "conj", "neg", "clone"]), max_size=3)):
        view = _STEPS[step](view)
    return view


def _bytes(dtype: torch.dtype, count: int) -> bytes:
    top = 2 if dtype is torch.bool else 251
    return bytes(i % top for i in range(count * dtype.itemsize))


_STEPS = {
    "t": lambda t: t.permute(*reversed(range(t.ndim))) if t.ndim else t,
    "step": lambda t: t[..., ::2] if t.ndim else t,
    "expand": lambda t: t.unsqueeze(0).expand(2, *t.shape),
    "conj": lambda t: t.conj() if t.is_complex() else t,
    "neg": lambda t: t.conj().imag if t.dtype in (torch.complex64, torch.complex128) else t,
    "clone": lambda t: t,
}


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, object]:
    """Tensors by name; some tied, some overlapping, some Parameters."""
    state: dict[str, object] = OrderedDict() if draw(st.booleans()) else {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=5, unique=True)):
        others = [value for value in state.values() if isinstance(value, torch.Tensor)]
        kind = draw(st.sampled_from(["new", "new", "tied", "part", "parameter"]))
        if kind == "tied" and others:
            state[name] = draw(st.sampled_from(others))
        elif kind == "part" and others and (other := draw(st.sampled_from(others))).ndim and other.shape[0]:
            state[name] = other.detach()[1:]
        elif kind == "parameter":
            fresh = torch.full((draw(st.integers(0, 3)), 2), 0.5)
            state[name] = torch.nn.Parameter(fresh, requires_grad=draw(st.booleans()))
        else:
            state[name] = draw(tensors())
    return state


assert sys.byteorder == "little"
