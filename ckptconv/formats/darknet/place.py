"""A layer of a Darknet network, what it stores, and the sizes of what goes in and comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.formats.darknet.config import bad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.formats.darknet.config import Section

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """A stored tensor: its name, its shape, and its strides where it is not stored in C order."""

    name: str
    shape: Shape
    strides: Shape | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What a layer gives: channels, height, width (0 if it is no image), and numbers in all."""

    channels: int
    height: int
    width: int
    numbers: int

    @classmethod
    def image(cls, channels: int, height: int, width: int) -> Size:
        """An image."""
        return cls(channels, height, width, channels * height * width)

    @classmethod
    def vector(cls, numbers: int) -> Size:
        """Numbers without a place, which Darknet's connected layers give as an image of one pixel."""
        return cls(numbers, 1, 1, numbers)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the network: what it stores, and what it gives."""

    section: Section
    slots: tuple[Slot, ...]
    size: Size


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands: its section and index, what it gets, the layers before it, and how the file was written."""

    section: Section
    index: int
    given: Size
    before: Sequence[Layer]
    revision: int
    transposed: bool

    def at(self, number: int) -> Size:
        """The output of a layer that is named by its number, or by how many layers it stands before this one."""
        index = number if number >= 0 else self.index + number
        if not 0 <= index < self.index:
            raise bad(f"{self.section.where} refers to the layer {index}")
        return self.before[index].size

    def image(self) -> Size:
        """What the layer gets, which has to be an image."""
        if not (self.given.channels and self.given.height and self.given.width):
            raise bad(f"{self.section.where} gets no image")
        return self.given
