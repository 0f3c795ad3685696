"""What all tests share: the repository's own modules are importable, and hypothesis is reproducible."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side, one on each core
settings.register_profile(
    "ckptconv",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("ckptconv")


@given(strategies.none())
def use_hypothesis(_: None) -> None:
    """Have it make what it makes once, and look who refers to that: it does not see what the collector passes over."""


def pytest_collection_finish() -> None:
    """Spare every garbage collection the modules that are imported and the tests that are collected: they stay."""
    use_hypothesis()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Let ``os.fsync`` return at once: tens of thousands of files took most of the time, and no test cuts the power.

    It still refuses what is no open file. Commands that run as processes of their own do wait.
    """

    def checked(fd: int) -> None:
        os.fstat(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", checked)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """An equal share of the tests for each worker, in their order: what a file's tests share is mostly made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)
