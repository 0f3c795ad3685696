"""A pickle's memo: values that it may get again, by index.

Picklers number them consecutively, and a torch pickle of 100,000 tensors has a million: these are kept in a list. Any
other index may be huge, and goes into a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle.values import Value


class Memo:
    """Values by index."""

    __slots__ = ("_consecutive", "_others")

    def __init__(self) -> None:
        self._consecutive: list[Value] = []
        self._others: dict[int, Value] = {}

    def __len__(self) -> int:
        """The number of indices that have a value."""
        return len(self._consecutive) + len(self._others)

    def __repr__(self) -> str:
        return f"<Memo {dict(enumerate(self._consecutive)) | self._others}>"

    def put(self, index: int, value: Value) -> None:
        """Store a value, and replace the one that was there."""
        if index == len(self._consecutive):
            self._consecutive.append(value)
            if self._others:
                self._others.pop(index, None)
        elif 0 <= index < len(self._consecutive):
            self._consecutive[index] = value
        else:
            self._others[index] = value

    def get(self, index: int) -> Value:
        """The value at an index. Raises KeyError if there is none."""
        return self._consecutive[index] if 0 <= index < len(self._consecutive) else self._others[index]

    def clear(self) -> None:
        """Drop all values."""
        self._consecutive.clear()
        self._others.clear()
