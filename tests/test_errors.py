"""The tree of exceptions that the docstring of `ckptconv.errors` draws."""

from __future__ import annotations

import inspect
import re

from ckptconv import errors


def test_the_tree_that_is_drawn_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn: list[tuple[str, str]] = []
    above = ["Exception"]
    for line in errors.__doc__.splitlines():
        if row := re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)(\w+Error)  ", line):
            depth = len(row[1]) // 4
            del above[depth + 1 :]
            drawn.append((row[2], above[-1]))
            above.append(row[2])
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]
    assert sorted(drawn) == sorted((one.__name__, one.__base__.__name__) for one in classes)
