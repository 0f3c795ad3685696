"""What is on the disk after a kill, a full disk, or a source that changes under our hands."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.errors import FileAccessError, SourceChangedError
from ckptconv.io.leftovers import sweep
from ckptconv.io.target import Target
from tests.support.craft import saved
from tests.support.kills import killable
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import os, resource, signal, sys
{setup}
import ckptconv
print("ready", flush=True)
sys.stdin.readline()
try:
    ckptconv.convert(sys.argv[1], sys.argv[2], force=True)
except ckptconv.CkptconvError as error:
    print(type(error).__name__, error.hint, flush=True)
    sys.exit(2)
"""
NAMED = "del os.O_TMPFILE"


def worker(source: Path, target: Path, setup: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WORKER.format(setup=setup), str(source), str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if ".ckptconv-tmp-" in name]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = {f"layer.{i}": torch.full((1 << 18,), float(i)) for i in range(24)}
    return saved(tmp_path_factory.mktemp("source") / "in.pth", state)


@pytest.mark.parametrize("setup", ["", NAMED], ids=["unnamed", "named"])
def test_a_kill_at_any_moment_leaves_the_old_file_whole_and_the_next_run_succeeds(
    setup: str, source: Path, tmp_path: Path
) -> None:
    target, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
    old = b"the old file"
    start = time.perf_counter()
    ckptconv.convert(source, whole)
    takes = max(time.perf_counter() - start, 0.02)
    new = whole.read_bytes()
    moments = random.Random(7)
    with killable(source, target, setup=setup) as run:
        for _ in range(25):
            target.write_bytes(old)
            process = run.begin()
            time.sleep(moments.uniform(0, 2 * takes))
            with suppress(ProcessLookupError):  # it is done
                os.kill(process, signal.SIGKILL)
            was_killed = run.end()
            assert target.read_bytes() == new or (was_killed and target.read_bytes() == old)
    ckptconv.convert(source, target, force=True)
    assert target.read_bytes() == new
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "whole.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_stray_file_behind(number: signal.Signals, source: Path, tmp_path: Path) -> None:
    process = worker(source, tmp_path / "out.safetensors")
    begin(process)
    time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    assert set(os.listdir(tmp_path)) <= {"out.safetensors"}


def test_leftovers_of_a_killed_run_are_swept_and_a_live_siblings_file_is_not_touched(
    tmp_path: Path, source: Path
) -> None:
    dead = tmp_path / ".out.pth.ckptconv-tmp-0123456789ab"
    live = tmp_path / ".out.pth.ckptconv-tmp-ba9876543210"
    others = tmp_path / ".other.pth.ckptconv-tmp-0123456789ab"
    for path in (dead, live, others):
        path.write_bytes(b"half")
    with live.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ckptconv.convert(source, tmp_path / "out.pth")
    assert sorted(os.listdir(tmp_path)) == sorted(["out.pth", live.name, others.name])


def test_a_pipe_that_is_called_like_a_leftover_is_not_waited_for(tmp_path: Path) -> None:
    def too_long(number: int, frame: object) -> None:
        raise TimeoutError

    os.mkfifo(tmp_path / ".out.pth.ckptconv-tmp-0123456789ab")
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    try:
        sweep(tmp_path / "out.pth")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert os.listdir(tmp_path) == []


def test_two_runs_onto_one_target_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    path = tmp_path / "out.bin"
    with Target(path, replace=True) as first:
        first.write_at(0, b"first")
        with Target(path, replace=True) as second:
            second.write_at(0, b"second")
            assert len(leftovers(tmp_path)) == 2
            first.commit()
            assert path.read_bytes() == b"first"
            second.commit()
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("setup", ["", NAMED], ids=["unnamed", "named"])
def test_a_file_size_limit_is_reported_and_leaves_the_old_file(setup: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"old")
    limit = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    )
    process = worker(source, target, f"{setup}\n{limit}")
    begin(process)
    out, _ = process.communicate()
    assert process.returncode == 2
    assert out.startswith(b"FileAccessError")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.safetensors"]


def test_a_full_disk_in_the_middle_is_reported_and_leaves_the_old_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"old")
    write, left = os.pwrite, [5]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(FileAccessError, match="no space left") as error:
        ckptconv.convert(source, target, force=True)
    assert "free some space" in str(error.value.hint)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.safetensors"]


@pytest.mark.parametrize("code", [errno.EIO, errno.EINTR, errno.ENOSPC])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_a_file_that_fails_to_close_is_whole_or_the_old_one(
    code: int, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, target = saved(tmp_path / "in.pth", {"a": torch.ones(100)}), tmp_path / "out.safetensors"
    ckptconv.convert(path, target)
    new = target.read_bytes()
    if named:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    close = os.close
    for fail_at in range(1, 30):
        calls = 0

        def closing(fd: int) -> None:
            nonlocal calls
            close(fd)
            calls += 1
            if calls == fail_at:
                raise OSError(code, "a fault made by a test")

        target.write_bytes(b"old")
        with monkeypatch.context() as patched:
            patched.setattr(os, "close", closing)
            try:
                ckptconv.convert(path, target, force=True)
                whole = {new}
            except FileAccessError:
                whole = {b"old", new}
        assert target.read_bytes() in whole
        assert sorted(os.listdir(tmp_path)) == ["in.pth", "out.safetensors"]
        if calls < fail_at:
            return
    pytest.fail("a conversion closes dozens of files")


def test_a_source_that_is_written_to_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"a": torch.ones(100), "b": torch.ones(100)})

    def touch(done: int, total: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(SourceChangedError):
        ckptconv.convert(path, tmp_path / "out.safetensors", progress=touch)
    assert os.listdir(tmp_path) == ["in.pth"]


def test_a_source_that_is_cut_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"a": torch.ones(100), "b": torch.ones(100)})
    with ckptconv.open(path) as checkpoint:
        os.truncate(path, 100)
        with pytest.raises(SourceChangedError):
            checkpoint["b"].read()
        with pytest.raises(SourceChangedError):
            checkpoint.check_unchanged()


def test_a_source_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"a": torch.ones(100)})
    with ckptconv.open(path) as checkpoint:
        path.unlink()
        saved(path, {"a": torch.zeros(3)})
        assert same_object(checkpoint["a"].to_torch(), torch.ones(100))
    assert same_object(load(path), {"a": torch.zeros(3)})


def test_progress_is_reported_every_byte_and_never_goes_back(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ckptconv.convert(source, tmp_path / "out.safetensors", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (24 << 20, 24 << 20)


def test_what_a_progress_callback_raises_comes_through_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ckptconv.convert(source, tmp_path / "out.safetensors", progress=fail)
    assert os.listdir(tmp_path) == []
