"""Edits that are made, undone, and read from files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.api.editing.edits import Edits
from ckptconv.edits.name_rule import NameRule
from ckptconv.edits.rules import parse_rules
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UsageError
from ckptconv.io.digest import digest
from tests.edits import scripts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def saved(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    torch.save(dict(state), path)
    return path


def after(source: Path, tmp_path: Path, **wanted: object) -> dict[str, torch.Tensor]:
    target = tmp_path / "after.safetensors"
    ckptconv.convert(source, target, force=True, edits=Edits(**wanted))  # type: ignore[arg-type]
    return load_file(target)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {f"module.layers.{i}.{p}.weight": torch.randn(4, 6) for i in range(3) for p in "qkv"}
    return {**made, "module.norm.weight": torch.randn(4), "module.norm.steps": torch.tensor(3)}


@pytest.fixture
def source(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    return saved(tmp_path / "a.pth", state)


def rules(tmp_path: Path, text: str) -> Path:
    (tmp_path / "rules.toml").write_text(text)
    return tmp_path / "rules.toml"


def test_tensors_are_selected_and_dropped_by_globs_that_cross_dots(
    tmp_path: Path, source: Path, state: dict[str, torch.Tensor]
) -> None:
    found = after(source, tmp_path, select=["*.layers.*"], drop=["*.2.*", "*.v.weight"])
    assert set(found) == {f"module.layers.{i}.{p}.weight" for i in (0, 1) for p in "qk"}
    assert all(torch.equal(found[name], state[name]) for name in found)
    for wanted in ({"select": ["Layers.*"]}, {"drop": ["x*"]}):
        with pytest.raises(EditError, match="matches no tensor"):
            after(source, tmp_path, **wanted)
    with pytest.raises(EditError, match="leaves no tensor"):
        after(source, tmp_path, drop=["*"])


def test_names_change_in_the_order_given(tmp_path: Path, source: Path, state: dict[str, torch.Tensor]) -> None:
    names = [
        NameRule("strip-prefix", "module."),
        NameRule("rename", r"^layers\.(\d+)=h.\1"),
        NameRule("add-prefix", "x."),
    ]
    found = after(source, tmp_path, names=names)
    assert torch.equal(found["x.h.1.q.weight"], state["module.layers.1.q.weight"])
    assert len(found) == len(state)
    with pytest.raises(EditError, match="changes no name"):
        after(source, tmp_path, names=names[::-1][:2])
    with pytest.raises(UsageError, match="REGEX=REPL"):
        after(source, tmp_path, names=[NameRule("rename", "abc")])
    with pytest.raises(UsageError, match="group reference"):
        after(source, tmp_path, names=[NameRule("rename", r"layers=\7")])
    with pytest.raises(EditError, match="one name"):
        after(source, tmp_path, names=[NameRule("rename", r"\.[qkv]\.=.")])


def test_rules_fuse_turn_reshape_and_tie(tmp_path: Path, source: Path, state: dict[str, torch.Tensor]) -> None:
    path = rules(
        tmp_path,
        """
[[edits]]
kind = "rename"
sources = ["module.{*}"]
targets = ["{*}"]
[[edits]]
kind = "concat"
sources = ["{*}.q.weight", "{*}.k.weight", "{*}.v.weight"]
targets = ["{*}.qkv.weight"]
axis = 1
sizes = [6, 6, 6]
[[edits]]
kind = "transpose"
sources = ["layers.0.qkv.weight"]
axes = [1, 0]
[[edits]]
kind = "reshape"
sources = ["norm.weight"]
shape = [2, 2]
from = [4]
[[edits]]
kind = "tie"
sources = ["norm.weight"]
targets = ["norm.other"]
new = true
""",
    )
    found = after(source, tmp_path, names=[path])
    fused = torch.cat([state[f"module.layers.0.{p}.weight"] for p in "qkv"], dim=1)
    assert torch.equal(
        found["layers.1.qkv.weight"], torch.cat([state[f"module.layers.1.{p}.weight"] for p in "qkv"], 1)
    )
    assert torch.equal(found["layers.0.qkv.weight"], fused.T)
    assert torch.equal(found["norm.weight"], state["module.norm.weight"].reshape(2, 2))
    assert "norm.other" not in found  # stored once, as the package's save_model does
    ckptconv.convert(tmp_path / "after.safetensors", tmp_path / "back.pth", edits=Edits(names=[path], reverse=True))
    assert ckptconv.diff(source, tmp_path / "back.pth").equal


def test_a_stack_and_a_split_are_torchs(tmp_path: Path) -> None:
    experts = {f"e.{i}.w": torch.randn(3, 5) for i in range(4)}
    source = saved(tmp_path / "a.pth", {**experts, "gate_up": torch.randn(8, 3)})
    path = rules(
        tmp_path,
        """
[[edits]]
kind = "stack"
sources = ["e.0.w", "e.1.w", "e.2.w", "e.3.w"]
targets = ["experts"]
[[edits]]
kind = "split"
sources = "gate_up"
targets = ["gate", "up"]
""",
    )
    found = after(source, tmp_path, names=[path])
    assert torch.equal(found["experts"], torch.stack(list(experts.values())))
    whole = torch.load(source, weights_only=True)["gate_up"]
    assert torch.equal(torch.cat([found["gate"], found["up"]]), whole)


BAD = [
    ("edits = 3", "no list of edits"),
    ("[[edits]]\nkind = 'renam'", "no kind 'renam'"),
    ("[[edits]]\nkind = 'rename'\nsource = 'a'", "rename has no 'source'"),
    ("[[edits]]\nkind = 'rename'\nsources = [1]\ntargets = 'b'", "not a list of names"),
    ("[[edits]]\nkind = 'rename'\nsources = 'a'", "needs targets"),
    ("[[edits]]\nkind = 'drop'", "needs sources"),
    ("[[edits]]\nkind = 'drop'\nsources = 'a'\nsteps = [1]", "a step is"),
    ("= = =", "neither TOML nor JSON"),
    ('{"edits": [', "neither TOML nor JSON"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_mistake_in_a_rules_file_is_named(text: str, words: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        parse_rules(text.encode())
    assert words in caught.value.message


WRONG = [
    ("kind = 'rename'\nsources = 'x.{*}'\ntargets = 'y.{*}'", "matches no tensor"),
    ("kind = 'rename'\nsources = '{*}'\ntargets = 'y'", "one name"),
    ("kind = 'transpose'\nsources = 'module.norm.weight'\naxes = [1, 0]", "permutes no shape"),
    ("kind = 'transpose'\nsources = 'module.norm.weight'", "needs 'axes'"),
    ("kind = 'reshape'\nsources = 'module.norm.weight'\nshape = [3]", "elements are not what"),
    ("kind = 'split'\nsources = 'module.norm.weight'\ntargets = ['a', 'b', 'c']", "equal parts"),
    ("kind = 'split'\nsources = 'module.norm.weight'\ntargets = ['a', 'b']\nsizes = [1, 2]", "do not make 4"),
    ("kind = 'concat'\nsources = ['module.norm.weight', 'module.norm.steps']\ntargets = 'a'", "do not go together"),
    ("kind = 'concat'\nsources = ['{*}.q.weight', '{*}.z.weight']\ntargets = '{*}.a'", "there is no"),
    ("kind = 'cast'\nsources = 'module.norm.weight'\ndtype = 'F99'", "no element type"),
    ("kind = 'insert-layers'\ntargets = 'a'\nsteps = [[[], ['a']]]", "not in a list of edits"),
]


@pytest.mark.parametrize(("text", "words"), WRONG)
def test_a_rule_that_cannot_be_made_is_refused(tmp_path: Path, source: Path, text: str, words: str) -> None:
    path = rules(tmp_path, f"[[edits]]\n{text}\n")
    with pytest.raises(CkptconvError) as caught:
        after(source, tmp_path, names=[path])
    assert words in caught.value.message
    assert not (tmp_path / "after.safetensors").exists()


def test_what_nothing_undoes_is_refused(tmp_path: Path, source: Path) -> None:
    for text, words in (
        ("kind = 'drop'\nsources = 'a'", "not in it"),
        ("kind = 'reshape'\nsources = 'a'\nshape = [1]", "shape before"),
        ("kind = 'cast'\nsources = 'a'\ndtype = 'BF16'\nfrom = 'F32'", "does not hold all"),
    ):
        with pytest.raises(EditError, match=words):
            after(source, tmp_path, names=[rules(tmp_path, f"[[edits]]\n{text}\n")], reverse=True)
    with pytest.raises(UsageError, match="no rules to reverse"):
        after(source, tmp_path, reverse=True)


@pytest.mark.parametrize("number", range(50))
def test_a_script_is_recovered_by_diff_and_replayed(tmp_path: Path, number: int) -> None:
    """What a random script did is told as edits, not as removed and added; replayed, they give the same digest."""
    before, now = scripts.make(number)
    a, b = saved(tmp_path / "a.pth", before), saved(tmp_path / "b.pth", now)
    found = ckptconv.diff(a, b)
    codes = {finding.code for finding in found.findings if finding.severity == "error"}
    assert not codes & {"added", "removed"}, found.findings
    (tmp_path / "edits.json").write_text(json.dumps(found.to_dict()))
    ckptconv.convert(a, tmp_path / "c.pth", edits=Edits(names=[tmp_path / "edits.json"]))
    with ckptconv.open(b) as wanted, ckptconv.open(tmp_path / "c.pth") as made:
        assert digest(made) == digest(wanted), [edit.to_dict() for edit in found.edits]


def test_ties_metadata_and_module_versions_stay(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(3), "b": torch.nn.Linear(3, 3, bias=False)})
    state = model.state_dict()
    state["tied.weight"] = state["b.weight"]
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pth")
    wanted = Edits(names=[NameRule("add-prefix", "net.")], dtype=["BF16"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.pth", edits=wanted)
    found = torch.load(tmp_path / "b.pth", weights_only=True)
    assert found["epoch"] == 3
    assert found["state_dict"]._metadata["net.a"] == {"version": 2}
    assert found["state_dict"]["net.tied.weight"].data_ptr() == found["state_dict"]["net.b.weight"].data_ptr()
    assert found["state_dict"]["net.b.weight"].dtype is torch.bfloat16
    assert found["state_dict"]["net.a.num_batches_tracked"].dtype is torch.int64  # floats alone, unless asked


def test_what_is_changed_is_read_in_ranges(tmp_path: Path, source: Path) -> None:
    path = rules(
        tmp_path,
        "[[edits]]\nkind = 'concat'\nsources = ['{*}.q.weight', '{*}.k.weight']\ntargets = '{*}.qk'\naxis = 1\n"
        "[[edits]]\nkind = 'cast'\nsources = '{*}.qk'\ndtype = 'BF16'\n",
    )
    with ckptconv.open(source) as checkpoint:
        made, _ = apply_edits(checkpoint, Edits(names=[path]))
        tensor = made["module.layers.0.qk"]
        whole = bytes(tensor.read())
        assert all(bytes(tensor.read(i, j)) == whole[i:j] for i in range(0, 96, 7) for j in range(i, 97, 5))
