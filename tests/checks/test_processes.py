"""Figures that other processes take are those that this one takes, whatever becomes of those processes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import fields
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ckptconv.checks import compare_values, pool, processes
from ckptconv.checks.figures import Figures, is_number
from ckptconv.checks.float_blocks import FAST
from ckptconv.checks.pool import Pool, Scratch
from ckptconv.checks.processes import Helpers
from ckptconv.checks.stats import stats_of
from ckptconv.checks.stretch import Pair, stretch_figures
from ckptconv.checks.tolerance import Tolerance
from ckptconv.checks.works import FIGURES
from ckptconv.core.dtypes import PLAIN, DType
from ckptconv.core.tensor import ByteSpan, LazyTensor, SpanReader, TensorInfo
from ckptconv.io.process import Helper
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ELEMENTS = 20_000
START = 8 * 125


@pytest.fixture
def open_files() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def written(path: Path, data: bytes, dtype: DType, files: ExitStack, offset: int = 3) -> LazyTensor:
    """A tensor of these bytes, which lie somewhere in a file."""
    path.write_bytes(bytes(offset) + data)
    source = files.enter_context(Source(path))
    info = TensorInfo.of(dtype, (len(data) * 8 // dtype.bits,))
    span = ByteSpan(source, offset, info.nbytes)
    return LazyTensor(info, SpanReader(span), span)


def random_pair(tmp_path: Path, a: DType, b: DType, files: ExitStack, tolerance: Tolerance = Tolerance()) -> Pair:
    rng = np.random.default_rng(1)
    data = (rng.integers(0, 255, dtype.nbytes(ELEMENTS), dtype=np.uint8).tobytes() for dtype in (a, b))
    one, other = (
        written(tmp_path / f"{i}\udcff\n", each, dtype, files)
        for i, (each, dtype) in enumerate(zip(data, (a, b), strict=True))
    )
    return Pair(one, other, tolerance)


def assert_same(found: Figures, expected: Figures) -> None:
    for one in fields(Figures):
        np.testing.assert_equal(getattr(found, one.name), getattr(expected, one.name), one.name)  # NaN is NaN


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Helpers]:
    """Every worker but the first has a process."""
    monkeypatch.setattr(processes, "SHARE", 1)
    with Helpers(2) as found:
        yield found


def options_of(pair: Pair, *, histogram: bool = False) -> dict[str, float]:
    near = pair.tolerance
    return {"rtol": near.rtol, "atol": near.atol, "ulp": near.ulp, "bins": histogram}


def done(found: Helpers, pair: Pair) -> Figures:
    """All figures, from wherever they can be had."""
    return found.do(FIGURES, (pair.a, pair.b), 0, ELEMENTS, Scratch(1, Lock()), **options_of(pair))


def by_helper(found: Helpers, pair: Pair, *, histogram: bool = False) -> Figures:
    """The figures, and proof that another process took them."""
    task = processes._task(FIGURES, (pair.a, pair.b), START, ELEMENTS, options_of(pair, histogram=histogram))
    assert task is not None
    answer = found._helper(1).ask(task)
    assert answer is not None
    return FIGURES.from_json(answer[0])


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What helpers answer from now on."""
    asked: list[object] = []
    ask = Helper.ask

    def kept(self: Helper, task: Any) -> object:
        asked.append(ask(self, task))
        return asked[-1]

    monkeypatch.setattr(Helper, "ask", kept)
    return asked


TYPES = sorted((dtype for dtype in PLAIN.values() if is_number(dtype)), key=str)


@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(0.5, 1e-3, 3)], ids=["bits", "near"])
def test_every_type_has_the_same_figures_from_a_helper(
    helped: Helpers, tmp_path: Path, open_files: ExitStack, tolerance: Tolerance
) -> None:
    casts = [pair for pair in pairwise(TYPES) if "complex" not in (pair[0].kind, pair[1].kind)]
    for a, b in [*((dtype, dtype) for dtype in TYPES), *casts]:
        with ExitStack() as files:
            pair = random_pair(tmp_path, a, b, files, tolerance)
            for histogram in (False, True):
                expected = stretch_figures(pair, START, ELEMENTS, Scratch(0, Lock()), histogram=histogram)
                assert_same(by_helper(helped, pair, histogram=histogram), expected)


def test_a_comparison_with_helpers_is_the_one_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_files: ExitStack
) -> None:
    rng = np.random.default_rng(2)
    pairs = []
    for i in range(5):
        x = rng.standard_normal(1_000_001).astype(np.float32)
        y = x * (1 + 1e-3 * rng.standard_normal(len(x)).astype(np.float32))
        a, b = (
            written(tmp_path / f"{name}{i}", v.tobytes(), DType.F32, open_files) for name, v in (("a", x), ("b", y))
        )
        pairs.append(Pair(a, b, Tolerance()))
    alone = compare_values.compare_values(pairs, Pool(1))
    monkeypatch.setattr(processes, "SHARE", 1 << 20)
    monkeypatch.setattr(pool, "PIECE", 1 << 19)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    asked = asked_of(monkeypatch)
    assert compare_values.compare_values(pairs, Pool(1)) == alone
    assert asked
    assert None not in asked
    assert (None, b"") not in asked


def test_what_a_helper_cannot_do_is_done_here(helped: Helpers, tmp_path: Path, open_files: ExitStack) -> None:
    """Bytes that lie in no file; a helper that was killed; a file that another one took the place of."""
    pair = random_pair(tmp_path, DType.F16, DType.F16, open_files)
    expected = stretch_figures(pair, 0, ELEMENTS, Scratch(0, Lock()), histogram=False)

    loose = Pair(LazyTensor(pair.a.info, pair.a.reader), pair.b, Tolerance())
    assert processes._task(FIGURES, (loose.a, loose.b), 0, ELEMENTS, options_of(loose)) is None
    assert_same(done(helped, loose), expected)

    by_helper(helped, pair)
    path = pair.b.span.file.path  # type: ignore[union-attr]
    os.rename(path, tmp_path / "old")
    path.write_bytes(bytes(3 + pair.b.info.nbytes))
    with Helpers(2) as others:
        task = processes._task(FIGURES, (pair.a, pair.b), 0, ELEMENTS, options_of(pair))
        assert others._helper(1).ask(task) == (None, b"")
        assert_same(done(others, pair), expected)

    process = helped._helper(1)._process
    assert process is not None
    process.kill()
    process.wait()
    assert_same(done(helped, pair), expected)
    assert helped._helper(1)._process is None


def test_stats_with_helpers_are_those_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_files: ExitStack
) -> None:
    rng = np.random.default_rng(2)
    tensors = []
    for dtype in TYPES:
        data = rng.integers(0, 256, dtype.nbytes(3_000_000), dtype=np.uint8)
        if dtype in FAST:
            data[1::2] &= 0x3F  # finite
        tensors.append(written(tmp_path / str(dtype), data.tobytes(), dtype, open_files))
    alone = stats_of(tensors)
    monkeypatch.setattr(processes, "SHARE", 1 << 20)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    asked = asked_of(monkeypatch)
    assert stats_of(tensors) == alone
    assert asked
    assert None not in asked
    assert (None, b"") not in asked


def test_helpers_are_gone_after_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_files: ExitStack
) -> None:
    monkeypatch.setattr(processes, "SHARE", 1)
    pair = random_pair(tmp_path, DType.F32, DType.F32, open_files)
    with pytest.raises(KeyboardInterrupt), Helpers(2) as found:
        by_helper(found, pair)
        process = found._helper(1)._process
        raise KeyboardInterrupt
    assert process is not None
    assert process.returncode is not None


def test_a_helper_imports_nothing_from_the_folder_it_works_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_files: ExitStack
) -> None:
    """A stranger's folder may hold a json.py beside the weights."""
    for name in ("json", "numpy", "ckptconv", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    pair = random_pair(tmp_path, DType.F32, DType.F32, open_files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "SHARE", 1)
    with Helpers(2) as found:
        by_helper(found, pair)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("program", ["", None, "/usr/bin/blender", "/opt/app/ckptconv"])
def test_a_program_that_is_no_python_is_not_started_again(monkeypatch: pytest.MonkeyPatch, program: str | None) -> None:
    monkeypatch.setattr("sys.executable", program)
    with Helpers(1 << 40) as found:
        assert not found._helps
