"""Finished files under their own names, before they are put in their places.

A graph names the file of its data by its path, so whoever reads both has to find them side by side. They are linked
into a folder of their own beside the target, which costs no copy; where there are no links, they are copied. The next
run removes a folder that a killed run left, where folders can be locked.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ckptconv.errors import FileAccessError
from ckptconv.io import access
from ckptconv.io.leftovers import folder_beside
from ckptconv.io.source import reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ckptconv.io.target import Target


@contextmanager
def staged(target: Target, neighbours: Sequence[str] = ()) -> Iterator[Path]:
    """The path of the unfinished target among its companions, until the context ends; `commit` may come before that.

    neighbours: files of the target's folder that are there already and belong to it, relative to that folder.

    Raises FileAccessError where neither links nor copies can be had.
    """
    with folder_beside(target.real) as folder:
        try:
            _fill(folder, target, neighbours)
            yield folder / target.real.name
        finally:
            for name in os.listdir(folder):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fill(folder: Path, target: Target, neighbours: Sequence[str]) -> None:
    home = target.real.parent
    try:
        for one in (target, *target.companions):
            place = _place(folder, one.real, home)
            _link_or_copy(one.link_as, one.readable_path, place)
        for name in neighbours:
            place = _place(folder, home / name, home)
            if not place.exists():
                there = os.path.realpath(home / name)
                _link_or_copy(partial(os.link, there), there, place)
    except OSError as error:
        raise FileAccessError(
            f"cannot be read before it is in its place: {reason(error)}", path=target.path,
            hint="convert without --verify, and then: ckptconv verify SRC DST",
        ) from error  # fmt: skip


def _link_or_copy(link: Callable[[Path], None], source: str | Path, place: Path) -> None:
    """Give a file one more name; where links are not to be had, or would not go away again, copy it."""
    try:
        if not access.HELD_BY_HANDLES:
            link(place)
            return
    except OSError:
        pass
    shutil.copyfile(source, place)


def _place(folder: Path, real: Path, home: Path) -> Path:
    place = folder / os.path.relpath(real, home)
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
