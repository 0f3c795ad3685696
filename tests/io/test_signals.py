"""What is on the disk when a signal comes right after a step, before anyone could note that it was taken."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.io import target as writing
from ckptconv.io import unfinished
from ckptconv.io.target import Target
from tests.support.craft import saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import FrameType

    from _typeshed import TraceFunction

STEPS = ("open", "close", "link", "replace", "unlink", "mkdir")

KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a file": ("out.safetensors", {}, "out.safetensors"),
    "a set": ("out.safetensors", {"shard_size": 300}, "out.safetensors.index.json"),
    "a new folder": ("out/", {"shard_size": 300}, "out"),
    "files beside": ("out/", {"with_files": True}, "out/model.safetensors"),
    "torch-dcp": ("out", {"to_format": "torch-dcp"}, "out"),
}
"""By what is written: the target, how, and what is read of it."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    fills = {"old": (0.0, 2), "new": (9.0, 3)}
    for name in fills:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"of": name}))
    return {
        name: saved(folder / name / "model.pth", {f"w{i}": torch.full((50,), fill + i) for i in range(count)})
        for name, (fill, count) in fills.items()
    }


def offers(links: str, patch: pytest.MonkeyPatch) -> None:
    """A file system with unnamed files, with links alone, or with neither."""
    if links != "unnamed":
        patch.delattr(os, "O_TMPFILE", raising=False)
    if links == "none":

        def refused(*_: object, **__: object) -> None:
            raise OSError(1, "Operation not permitted")

        patch.setattr(os, "link", refused)


def files(folder: Path) -> dict[str, bytes]:
    """What is there, and what configurations say."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.name == "config.json" else b""
        for path in folder.rglob("*")
    }


def interrupted(monkeypatch: pytest.MonkeyPatch, at: int, run: Callable[[], object]) -> KeyboardInterrupt | None:
    """Run, with a signal right after the `at`-th step; None where there are not so many."""
    taken = 0

    def after(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            result = step(*args, **kwargs)
            taken += 1
            if taken == at:
                raise KeyboardInterrupt
            return result

        return stepping

    with monkeypatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, after(getattr(os, name)))
        try:
            run()
        except KeyboardInterrupt as stop:
            return stop
    return None


def stops(
    monkeypatch: pytest.MonkeyPatch, folder: Path, before: Path, run: Callable[[], object]
) -> Iterator[KeyboardInterrupt]:
    """Every way to be interrupted, in a folder that is as `before` each time."""
    for at in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, folder)
        stop = interrupted(monkeypatch, at, run)
        if stop is None:
            return
        yield stop
    pytest.fail("a conversion does not take so many steps")


@pytest.mark.parametrize(
    ("kind", "links", "replaced"),
    [
        ("a file", "unnamed", True), ("a file", "named", False), ("a file", "named", True), ("a file", "none", False),
        ("a set", "unnamed", True), ("a set", "named", False), ("a set", "none", False),
        ("a new folder", "unnamed", False), ("files beside", "unnamed", True), ("files beside", "named", True),
        ("files beside", "unnamed", False), ("torch-dcp", "unnamed", True),
    ],
)  # fmt: skip
def test_all_is_as_it_was_or_all_is_new(
    kind: str, links: str, replaced: bool, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers(links, monkeypatch)
    name, how, read = KINDS[kind]
    folder, before, after = tmp_path / "target", tmp_path / "before", tmp_path / "after"
    before.mkdir()
    if replaced:
        ckptconv.convert(sources["old"], f"{before}/{name}", **how)
    shutil.copytree(before, after)
    ckptconv.convert(sources["new"], f"{after}/{name}", force=replaced, **how)

    def convert() -> object:
        return ckptconv.convert(sources["new"], f"{folder}/{name}", force=replaced, **how)

    whole = 0
    for stop in stops(monkeypatch, folder, before, convert):
        is_new = files(folder) == files(after) and ckptconv.diff(sources["new"], folder / read).equal
        if not is_new:
            assert files(folder) == files(before)
            assert not replaced or ckptconv.diff(sources["old"], folder / read).equal
        assert is_new or not hasattr(stop, "__notes__")
        whole += hasattr(stop, "__notes__")
    assert whole


@pytest.mark.parametrize("replaced", [False, True])
def test_a_signal_before_any_line_leaves_neither_folder_nor_name(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no step of the system's has just been taken, too: between what makes a folder and what notes its owner."""
    folder, lines, at = tmp_path / "out", 0, 0

    def stepping(frame: FrameType, event: str, arg: object) -> TraceFunction | None:
        nonlocal lines
        if frame.f_code.co_filename not in (writing.__file__, unfinished.__file__):
            return None
        lines += event == "line"
        if event == "line" and lines == at:
            raise KeyboardInterrupt
        return stepping

    def write() -> None:
        with Target(folder / "a", replace=replaced, folders=1) as target:
            target.beside("below/b", folders=1).write_at(0, b"new")
            target.commit()

    def begin() -> dict[str, bytes]:
        shutil.rmtree(folder, ignore_errors=True)
        if replaced:
            folder.mkdir()
            (folder / "a").write_bytes(b"old")
        return files(tmp_path)

    before = begin()
    write()
    after = files(tmp_path)
    stopped, found = True, []
    while stopped:
        begin()
        stopped, lines, at = False, 0, at + 1
        sys.settrace(stepping)
        try:
            write()
        except KeyboardInterrupt:
            stopped = True
        finally:
            sys.settrace(None)
        found.append(files(tmp_path))
    assert found.count(before) > 50
    assert [one for one in found if one not in (before, after)] == []
