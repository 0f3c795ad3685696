"""The memo of a pickle: what it may fetch again, by index.

Picklers count the indices up, and a torch pickle of 100,000 tensors puts a million values there: these are a list. An
index out of turn may be huge, and goes into a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptconv.formats.torch.pickle.values import Value


class Memo:
    """Values by index."""

    __slots__ = ("_in_turn", "_others")

    def __init__(self) -> None:
        self._in_turn: list[Value] = []
        self._others: dict[int, Value] = {}

    def __len__(self) -> int:
        """Indices that have a value."""
        return len(self._in_turn) + len(self._others)

    def __repr__(self) -> str:
        return f"<Memo {dict(enumerate(self._in_turn)) | self._others}>"

    def put(self, index: int, value: Value) -> None:
        """Keep the value; one that was there before is replaced."""
        if index == len(self._in_turn):
            self._in_turn.append(value)
            if self._others:
                self._others.pop(index, None)
        elif 0 <= index < len(self._in_turn):
            self._in_turn[index] = value
        else:
            self._others[index] = value

    def get(self, index: int) -> Value:
        """Raises KeyError where there is none."""
        return self._in_turn[index] if 0 <= index < len(self._in_turn) else self._others[index]

    def clear(self) -> None:
        """Let go of all."""
        self._in_turn.clear()
        self._others.clear()
