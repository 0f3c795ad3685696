"""Names that many ask for: each gets another, and the time goes by their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import ckptconv
from ckptconv.core.names import free_key, free_name
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from pathlib import Path


def given(count: int, taken: set[str]) -> list[str]:
    found = []
    for _ in range(count):
        found.append(free_name("w", taken.__contains__, lambda number: f"w#{number}"))
        taken.add(found[-1])
    return found


def test_a_name_that_is_free_stays_and_others_are_numbered_from_2() -> None:
    assert given(4, set()) == ["w", "w#2", "w#3", "w#4"]
    assert given(2, {"w", "w#2", "w#3"}) == ["w#4", "w#5"]


def test_numbers_that_others_have_by_themselves_are_skipped() -> None:
    for taken in ({"w#2"}, {"w", "w#4"}, {"w", "w#2", "w#4", "w#8", "w#16"}, {"w", "w#3", "w#5"}):
        before = set(taken)
        found = given(20, taken)
        assert len(set(found)) == 20
        assert not before.intersection(found)


def test_a_hundred_thousand_of_one_name_take_time_by_their_number() -> None:
    with at_most(4):
        assert given(100_000, set())[-1] == "w#100000"


def test_a_key_that_is_taken_gets_longer() -> None:
    assert (free_key("a", {}), free_key("a", {"a": 1, "a_": 2})) == ("a", "a__")


def test_a_small_file_in_which_thousands_of_paths_are_spelled_alike_opens_at_once(tmp_path: Path) -> None:
    """``a`` in ``a.a`` and ``a.a`` in ``a``: 6,765 paths in two kilobytes, since parts are shared."""
    last: object
    last, node = torch.ones(1), {"a": torch.ones(1), "x": 3}
    for _ in range(18):
        last, node = node, {"a": node, "a.a": last, "x": 3}
    torch.save({"state_dict": {"w": torch.ones(2)}, "more": node}, tmp_path / "a.pth")
    with at_most(2), ckptconv.open(tmp_path / "a.pth") as checkpoint:
        assert len(checkpoint.extras) > 6000


def test_names_that_a_format_cuts_at_one_place_come_back(tmp_path: Path) -> None:
    torch.save({f"{'a' * 60}.{i}.weight": torch.full((1,), i) for i in range(40)}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.gguf")
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.pth")
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.pth").equal
