"""How far something has come, for those who wait."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called every now and then with what is done and what there is in all: bytes, or turns of a network."""
