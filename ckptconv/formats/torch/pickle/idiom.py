r"""The sequence of forty opcodes with which a pickler writes a tensor, interpreted in one step.

They are two thirds of a torch pickle and always the same. Recognising them saves a quarter of the time for a file of
30,000 tensors::

    ( ( h kind h class X key r i h device K numel t r i Q      a persistent id, from a tuple of five
      K offset  K n … \x85 r i  K n … \x85 r i  \x89           an int, two tuples of ints, a bool
      h callable ) R r i                                       a call without arguments
    t r i R r i                                                all of it the arguments of a call

Anything that differs in the slightest is left to the machine: the first tensors, whose memo indices fit into one byte,
and pickles of other protocols. Source: Python's Modules/_pickle.c, ``save_tuple``, ``save_long``, ``memo_put``.
"""

from __future__ import annotations

import re

_INT = rb"K.|M..|J...."
_GET = rb"(h.|j....)"
_PUT = rb"r(....)"
_TUPLE = rb"(?:\)|((?:" + _INT + rb"){1,3}[\x85-\x87]|\((?:" + _INT + rb"){4,64}t)" + _PUT + rb")"
_CALL = re.compile(
    rb"\(" + _GET + _GET + rb"X(.)\0\0\0([0-9]{1,20})" + _PUT + _GET + rb"(" + _INT + rb")t" + _PUT + rb"Q"
    rb"(" + _INT + rb")" + _TUPLE + _TUPLE + rb"([\x88\x89])" + _GET + rb"\)R" + _PUT + rb"t" + _PUT + rb"R" + _PUT,
    re.DOTALL,
)  # fmt: skip
_NUMBER = re.compile(_INT, re.DOTALL)

find = _CALL.match
"""``find(pickle, pos)``: the match of the idiom whose first MARK is just before `pos`. Its groups, in order:

opcodes that get kind and class; length, text and memo index of the key; opcodes of the device and the int; memo index
of the id; opcode of the offset; opcodes and memo index of the sizes, and of the strides, None if empty; opcode of the
bool; opcode that gets the inner callable, memo index of its result; memo indices of the arguments and of the result.
"""


def index(put: bytes) -> int:
    """A memo index of four bytes."""
    return int.from_bytes(put, "little")


def got(get: bytes) -> int:
    """The memo index of a BINGET or LONG_BINGET."""
    return get[1] if len(get) == 2 else int.from_bytes(get[1:], "little")


def number(code: bytes) -> int:
    """The int that a BININT1, BININT2 or BININT pushes."""
    return code[1] if len(code) == 2 else int.from_bytes(code[1:], "little", signed=len(code) == 5)


def numbers(code: bytes) -> tuple[int, ...]:
    """The ints of a tuple. Raises ValueError if its opcode takes a different number of them than are in front of it."""
    values = tuple(number(found[0]) for found in _NUMBER.finditer(code, code[0] == 0x28, len(code) - 1))
    if code[0] != 0x28 and len(values) != code[-1] - 0x84:
        raise ValueError("a tuple's opcode takes other values than its own")
    return values
