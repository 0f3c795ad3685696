"""Blocks that other processes make are those that this one makes, whatever becomes of those processes."""

from __future__ import annotations

import os
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.api.editing.edits import Edits
from ckptconv.edits.ggml import processes
from ckptconv.io.process import Helper

if TYPE_CHECKING:
    from pathlib import Path

Asked = list[tuple[Helper, Any]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Tensors of several pieces, of which some lie in the file as they are and one is gathered."""
    made = torch.Generator().manual_seed(0)
    tensors = {f"w{i}.weight": torch.randn(300, 1024, generator=made).to(torch.bfloat16) for i in range(3)}
    tensors |= {"norm.weight": torch.ones(1024), "turned.weight": torch.randn(768, 512, generator=made).t()}
    torch.save(tensors, tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Two processes help from now on; what each of them answered."""
    found: Asked = []
    ask = Helper.ask

    def kept(self: Helper, *task: Any) -> object:
        found.append((self, ask(self, *task)))
        return found[-1][1]

    monkeypatch.setattr(Helper, "ask", kept)
    monkeypatch.setattr(processes, "SHARE", 1 << 16)
    monkeypatch.setattr(processes, "MOST", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return found


def converted(source: Path, dtype: str, **options: Any) -> tuple[bytes, list[str]]:
    """The file, and what is said of it."""
    target = source.with_suffix(".gguf")
    made = ckptconv.convert(source, target, force=True, edits=Edits(dtype=[dtype]), **options)
    return target.read_bytes(), [one.message for one in made.findings]


@pytest.mark.parametrize("dtype", ["Q4_K", "Q8_0"])
def test_blocks_and_losses_are_those_of_one_process(
    source: Path, asked: Asked, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = converted(source, dtype)
    assert len({id(helper) for helper, _ in asked}) == 2
    assert all(answer is not None for _, answer in asked)
    assert all(helper._process is None for helper, _ in asked)
    asked.clear()
    monkeypatch.setattr(processes, "SHARE", 1 << 40)
    assert converted(source, dtype) == helped
    assert not asked


def test_what_takes_less_is_left_to_threads_where_cores_are_few(
    source: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    converted(source, "Q8_0")
    assert not asked
    converted(source, "Q4_K")
    assert asked


def test_what_a_process_that_was_killed_should_have_done_is_done_here(
    source: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = converted(source, "Q4_K")
    asked.clear()
    start = Helper.__init__

    def started(self: Helper, module: str) -> None:
        start(self, module)
        assert self._process is not None
        self._process.kill()

    monkeypatch.setattr(Helper, "__init__", started)
    assert converted(source, "Q4_K") == helped
    assert asked
    assert all(answer is None for _, answer in asked)


def test_a_process_that_says_something_else_is_not_heard(
    source: Path, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = converted(source, "Q4_K")
    asked.clear()
    monkeypatch.setattr("ckptconv.io.process._START", "print('hello {0}'); input()")
    assert converted(source, "Q4_K") == helped
    assert asked
    assert all(answer is None for _, answer in asked)


@pytest.mark.parametrize("most", [0, 1])
def test_without_threads_for_them_no_process_is_asked(
    source: Path, asked: Asked, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    helped = converted(source, "Q4_K")
    asked.clear()
    start, started = Thread.start, list[Thread]()

    def limited(self: Thread) -> None:
        if len(started) == most and self.name.startswith("ThreadPoolExecutor"):
            monkeypatch.setattr(Thread, "start", start)
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(Thread, "start", limited)
    assert converted(source, "Q4_K") == helped
    assert not asked
    assert Thread.start is start


def test_an_interruption_ends_the_processes_and_leaves_nothing_behind(source: Path, asked: Asked) -> None:
    def interrupt(done: int, _: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(source, "Q4_K", progress=interrupt)
    assert asked
    assert all(helper._process is None for helper, _ in asked)
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_dry_run_is_helped_too(source: Path, asked: Asked) -> None:
    made = ckptconv.convert(source, source.with_suffix(".gguf"), edits=Edits(dtype=["Q4_K"]), dry_run=True)
    assert any("Q4_K" in one.message for one in made.findings)
    assert asked
    assert all(answer is not None for _, answer in asked)
