"""How much memory a process can still get: what the system has, or what its groups leave of their limits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ckptconv.core.memory import available_memory

if TYPE_CHECKING:
    from pathlib import Path

SYSTEM = "MemTotal:    24000000 kB\nMemFree:  1000000 kB\nMemAvailable:    8000000 kB\nSwapFree:    1000000 kB\n"


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": SYSTEM, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_groups_it_is_what_the_system_has_with_its_swap(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, {})) == 9_000_000 << 10


def test_a_system_that_does_not_say_has_no_number(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_a_container_s_limit_counts_without_the_caches_in_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "4000000000\n",
        "sys/fs/cgroup/memory.current": "3000000000\n",
        "sys/fs/cgroup/memory.stat": "anon 1000\ninactive_file 1500000000\nactive_file 500000000\n",
    }
    assert available_memory(system(tmp_path, files)) == 3_000_000_000


def test_the_least_that_a_group_above_leaves_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user.slice/app\n",
        "sys/fs/cgroup/user.slice/app/memory.max": "max\n",
        "sys/fs/cgroup/user.slice/app/memory.current": "5\n",
        "sys/fs/cgroup/user.slice/memory.max": "1000\n",
        "sys/fs/cgroup/user.slice/memory.current": "400\n",
    }
    assert available_memory(system(tmp_path, files)) == 600


def test_the_older_groups_of_a_container_whose_path_is_the_host_s(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "2500\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 700\ntotal_active_file 100\n",
    }
    assert available_memory(system(tmp_path, files)) == 300


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="Linux says how much memory there is")
def test_this_machine_has_some_memory_and_not_more_than_in_all() -> None:
    available = available_memory()
    assert available is not None
    with open("/proc/meminfo") as meminfo:
        numbers = {line.split(":")[0]: int(line.split()[1]) << 10 for line in meminfo}
    assert 1 << 20 < available <= numbers["MemTotal"] + numbers["SwapTotal"]
