"""Each larger package opens with a guide, and a guide is whole: a table of all modules by what they are for; the
repository has nothing at its top but what it is known to have.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

import ckptconv

ROOT = Path(ckptconv.__file__).parent
REPOSITORY = Path(__file__).parent.parent
TOP = {".ci", ".gitignore", "LICENSE", "README.md", "ckptconv", "fixtures", "pyproject.toml", "tests"}
MANY = 12
"""Modules from which on a package is not taken in at a glance."""


def modules(package: Path) -> set[str]:
    """The modules and packages in it."""
    found = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    return found - {"__init__"}


def named(package: Path) -> list[str]:
    """What the rows of its guide are about: the words before two spaces."""
    guide = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    rows = [re.match(r"(?:    )?(\w+(?:  \w+)*)(?:  |$)", line) for line in guide.splitlines()]
    return [name for row in rows if row for name in row[1].split("  ")]


PACKAGES = [path.parent for path in sorted(ROOT.glob("**/__init__.py"))]
ROOMS = [path for path in PACKAGES if len(modules(path)) >= MANY or modules(path) & set(named(path))]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_the_guide_of_a_package_names_each_of_its_modules(room: Path) -> None:
    assert sorted(named(room)) == sorted(modules(room)), f"say in {room.relative_to(ROOT)}/__init__.py what each is for"


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="what is kept, a clone knows")
def test_nothing_else_is_kept_at_the_top() -> None:
    """An environment that was added by mistake is 30,000 files."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {path.partition("/")[0] for path in listed.stdout.split("\0") if path} == TOP
