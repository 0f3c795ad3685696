"""What `diff --json` says was done to OLD, done to OLD gives NEW: `convert OLD --rules` of random chains of edits."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from tests.edits.chains import KINDS, Chain, State

if TYPE_CHECKING:
    from pathlib import Path

MANY = int(os.environ.get("CKPTCONV_EXAMPLES", "100"))


def redone(folder: Path, old: State, new: State) -> tuple[ckptconv.Difference, State]:
    """The difference, and what its edits make of OLD."""
    torch.save(old, folder / "old.pth")
    torch.save(new, folder / "new.pth")
    found = ckptconv.diff(folder / "old.pth", folder / "new.pth")
    (folder / "edits.json").write_text(json.dumps(found.to_dict()))
    if not found.edits:
        return found, old
    edits = ckptconv.Edits(names=[folder / "edits.json"])
    ckptconv.convert(folder / "old.pth", folder / "made.pth", edits=edits, force=True)
    return found, torch.load(folder / "made.pth")


def unlike(made: State, new: State) -> set[str]:
    return {
        name for name in made.keys() | new.keys()
        if name not in made or name not in new or made[name].dtype != new[name].dtype
        or not torch.equal(made[name], new[name])
    }  # fmt: skip


def test_whatever_the_edits_do_not_make_is_reported(tmp_path: Path) -> None:
    for seed in range(MANY):
        chain = Chain.of(seed)
        old = new = chain.start()
        for _ in range(chain.choose.randint(1, 4)):
            new = KINDS[chain.choose.choice([*KINDS, "rename"])](chain, new)
        found, made = redone(tmp_path, old, new)
        told = {word.strip(":,") for finding in found.findings for word in finding.message.split()
                if finding.code in ("added", "shape-changed", "value-changed", "dtype-changed")}  # fmt: skip
        assert made.keys() <= new.keys(), seed
        assert unlike(made, new) <= told, seed


@pytest.mark.parametrize("kind", [*(name for name in KINDS if name != "untie"), "many"])
def test_the_edits_make_new_of_old_where_contents_tell(kind: str, tmp_path: Path) -> None:
    changed = 0
    for seed in range(MANY // 5):
        chain = Chain.of(seed, telling=True)
        old = new = chain.start()
        for name in ("rename", "untie", "rename") if kind == "many" else [kind]:
            new = KINDS[name](chain, new)
        _, made = redone(tmp_path, old, new)
        assert not unlike(made, new), seed
        changed += old.keys() != new.keys() or bool(unlike(old, new))
    assert changed > MANY // 50
