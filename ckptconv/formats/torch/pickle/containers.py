"""The opcodes that handle the stack and the memo, and those that fill containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.collisions import Collisions, check_digits
from ckptconv.errors import LimitError
from ckptconv.formats.torch.pickle.memo import Memo
from ckptconv.formats.torch.pickle.program import Program
from ckptconv.formats.torch.pickle.values import Elided, UnbuiltObject, Value
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Containers(Program):
    """Stack, memo and containers."""

    def __init__(self, data: bytes, elided: Sequence[Elided] = ()) -> None:
        super().__init__(data, elided)
        self._memo = Memo()
        self._collisions = Collisions()

    def _check_keys(self, container: object, keys: Iterable[Value]) -> None:
        """Bound the depth and size of tuples before they are hashed: hashing recurses in C without a check, and again
        for every shared part. Then bound how many keys of `container` share a hash.
        """
        odd = [key for key in keys if type(key) is not str]
        if not odd:
            return
        waiting: list[tuple[Sequence[Value], int]] = [(odd, 0)]
        while waiting:
            items, depth = waiting.pop()
            check_digits(item for item in items if type(item) is int)
            if depth > MAX_DEPTH:
                raise LimitError(f"a key is nested deeper than {MAX_DEPTH} levels", hint="do not trust it")
            self._charge(len(items) if depth else 0)
            waiting += [(item, depth + 1) for item in items if type(item) is tuple]
        self._collisions.add(container, odd)

    def _note_hashed(self, keys: Iterable[Value]) -> None:
        """Record what keys and members of sets would run when they are hashed and compared."""

    # Stack and memo

    def _op_POP(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _op_POP_MARK(self) -> None:
        self._pop_mark()

    def _op_DUP(self) -> None:
        self._stack.append(self._stack[-1])

    def _op_PUT(self) -> None:
        self._memo.put(self._decimal(self._line()), self._stack[-1])

    def _op_MEMOIZE(self) -> None:
        self._memo.put(len(self._memo), self._stack[-1])

    def _op_GET(self) -> None:
        self._stack.append(self._memo.get(self._decimal(self._line())))

    # Containers

    def _op_EMPTY_TUPLE(self) -> None:
        self._stack.append(())

    def _op_TUPLE(self) -> None:
        items = tuple(self._pop_mark())
        self._stack.append(items)

    def _op_TUPLE1(self) -> None:
        self._stack[-1] = (self._stack[-1],)

    def _op_TUPLE2(self) -> None:
        last = self._stack.pop()
        self._stack[-1] = (self._stack[-1], last)

    def _op_TUPLE3(self) -> None:
        last = self._stack.pop()
        middle = self._stack.pop()
        self._stack[-1] = (self._stack[-1], middle, last)

    def _op_EMPTY_LIST(self) -> None:
        self._stack.append([])

    def _op_LIST(self) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    def _op_EMPTY_DICT(self) -> None:
        self._stack.append({})

    def _op_DICT(self) -> None:
        items = self._pop_mark()
        self._check_keys(items, items[::2])
        self._note_hashed(items[::2])
        self._stack.append(dict(zip(items[::2], items[1::2], strict=True)))

    def _op_EMPTY_SET(self) -> None:
        self._stack.append(set())

    def _op_FROZENSET(self) -> None:
        items = self._pop_mark()
        self._check_keys(items, items)
        self._note_hashed(items)
        self._stack.append(frozenset(items))

    def _op_APPEND(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _op_APPENDS(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Value]) -> None:
        match self._stack[-1]:
            case list() as target:
                target.extend(items)
            case UnbuiltObject() as target:
                target.note_change()
                target.items.extend(items)
            case other:
                raise self._bad(f"items are appended to a {type(other).__name__}")

    def _op_SETITEM(self) -> None:
        value = self._stack.pop()
        key = self._stack.pop()
        self._update([key, value])

    def _op_SETITEMS(self) -> None:
        self._update(self._pop_mark())

    def _update(self, flat: list[Value]) -> None:
        self._check_keys(self._stack[-1], flat[::2])
        self._note_hashed(flat[::2])
        pairs = zip(flat[::2], flat[1::2], strict=True)
        match self._stack[-1]:
            case dict() as target:
                target.update(pairs)
            case UnbuiltObject() as target:
                target.note_change()
                target.pairs.extend(pairs)
            case other:
                raise self._bad(f"keys are set on a {type(other).__name__}")

    def _op_ADDITEMS(self) -> None:
        items = self._pop_mark()
        self._check_keys(self._stack[-1], items)
        self._note_hashed(items)
        match self._stack[-1]:
            case set() as target:
                target.update(items)
            case UnbuiltObject() as target:
                target.note_change()
                target.items.extend(items)
            case other:
                raise self._bad(f"items are added to a {type(other).__name__}")
