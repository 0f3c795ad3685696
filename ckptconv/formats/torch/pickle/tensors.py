"""The thirty opcodes that torch.save writes for each tensor, recognised as one.

They put together, and then call with it what is on the stack,

    (persistent id ("storage", CLASS, KEY, DEVICE, NUMEL), OFFSET, SIZE, STRIDE, requires_grad, OrderedDict())

A file may have a million tensors, whose opcodes are nearly all of its pickle; from one to the next only the numbers
and the key differ. Nothing is assumed of what the memo holds where these opcodes take from it: the machine does with
it what it would opcode after opcode. Source: torch/_tensor.py (`_reduce_ex_internal`), torch/serialization.py
(`persistent_id`), CPython's pickle.py.
"""

from __future__ import annotations

import re
from functools import lru_cache
from struct import Struct

_GET, _PUT, _INT = rb"(h.|j.{4})", rb"r(.{4})", rb"(?:K.|M..|J.{4})"
_SIZES = rb"(%b(?:\x85|%b(?:\x86|%b\x87))|\(%b{4,64}t)" % (_INT, _INT, _INT, _INT)
_TENSOR = re.compile(
    rb"\(%(get)b%(get)bX(.)\0{3}([0-9]{1,9})%(put)b%(get)b(%(int)b)t%(put)bQ(%(int)b)%(sizes)b%(put)b%(sizes)b%(put)b"
    rb"([\x88\x89])%(get)b\)R%(put)bt%(put)bR%(put)b" % {b"get": _GET, b"put": _PUT, b"int": _INT, b"sizes": _SIZES},
    re.DOTALL,
)

_PUTS = Struct("<7I")

Sizes = tuple[int, ...]

Said = tuple[int, tuple[int, ...], str, int, int, Sizes, Sizes, bool, tuple[int, ...]]
"""Where the opcodes end; the memo's indices of "storage", CLASS, DEVICE and OrderedDict; KEY, NUMEL, OFFSET, SIZE,
STRIDE and requires_grad; where the memo keeps KEY, the persistent id, SIZE, STRIDE, the OrderedDict, the arguments and
what is made of them."""


def tensor_at(data: bytes, pos: int) -> Said | None:
    """The opcodes at `pos`, after the MARK of the call's arguments; None where they are others."""
    found = _TENSOR.match(data, pos)
    if found is None:
        return None
    (tag, storage, length, key, put, device, numel, put2, offset, size, put3, stride, put4, flag, hooks, put5, put6,
     put7) = found.groups()  # fmt: skip
    gets = _indices(tag, storage, device, hooks)
    puts = _PUTS.unpack(put + put2 + put3 + put4 + put5 + put6 + put7)
    # every index that is taken was put there before; then it does not matter that the memo changes in between
    if max(gets) >= puts[0] or puts != tuple(sorted(puts)) or length[0] != len(key):
        return None
    return (
        found.end(), gets, str(key, "ascii"), _number(numel), _number(offset), _numbers(size), _numbers(stride),
        flag == b"\x88", puts,
    )  # fmt: skip


def _number(opcode: bytes) -> int:
    """The argument of BININT1, BININT2 or BININT."""
    return opcode[1] if len(opcode) == 2 else int.from_bytes(opcode[1:], "little", signed=len(opcode) == 5)


@lru_cache(maxsize=4096)
def _indices(*opcodes: bytes) -> tuple[int, ...]:
    """The arguments of BINGET and LONG_BINGET."""
    return tuple(int.from_bytes(opcode[1:], "little") for opcode in opcodes)


@lru_cache(maxsize=4096)
def _numbers(opcodes: bytes) -> Sizes:
    """A tuple of ints, remembered since layers repeat their shapes."""
    made, pos = [], int(opcodes.startswith(b"("))
    while pos < len(opcodes) - 1:
        end = pos + {b"K": 2, b"M": 3, b"J": 5}[opcodes[pos : pos + 1]]
        made.append(_number(opcodes[pos:end]))
        pos = end
    return tuple(made)
