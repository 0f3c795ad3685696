"""Agents that Stable-Baselines3 saved: the policy is the model, the optimizers extras, and pickles in JSON are told."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnknownFormatError, UnsupportedError
from tests.cli.conftest import run as run  # the fixture
from tests.support.archive_files import saved_bytes, zipped

if TYPE_CHECKING:
    from tests.cli.conftest import Run

AGENTS = Path(__file__).parents[4] / "fixtures" / "others" / "stable-baselines3"
NAMES = ("ppo", "dqn", "sac", "function")


def read_by_torch(agent: str) -> dict[str, np.ndarray]:
    with np.load(AGENTS / "read.npz") as read:
        return {name.partition("|")[2]: read[name] for name in read if name.startswith(f"{agent}|")}


@pytest.mark.parametrize("agent", NAMES)
def test_the_policy_is_what_its_state_dict_has(agent: str) -> None:
    expected = read_by_torch(agent)
    expected.pop("log_ent_coef", None)
    with ckptconv.open(AGENTS / f"{agent}.zip") as checkpoint:
        assert checkpoint.format == "stable-baselines3"
        assert list(checkpoint) == list(expected)
        for name, array in expected.items():
            found = checkpoint[name].numpy()
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("agent", NAMES)
def test_everything_else_is_there(agent: str, tmp_path: Path) -> None:
    """Against what torch itself loads from the members."""
    ckptconv.convert(AGENTS / f"{agent}.zip", tmp_path / "x.pth")
    found = torch.load(tmp_path / "x.pth")
    with zipfile.ZipFile(AGENTS / f"{agent}.zip") as file:
        assert found["data"] == json.loads(file.read("data"))
        assert found["_stable_baselines3_version"] == file.read("_stable_baselines3_version").decode()
        assert found["system_info.txt"] == file.read("system_info.txt").decode()
        for name in file.namelist():
            if name.endswith(".pth"):
                with file.open(name) as member:
                    loaded = torch.load(member, weights_only=True)
                torch.testing.assert_close(
                    found["state_dict" if name == "policy.pth" else name.removesuffix(".pth")], loaded, rtol=0, atol=0
                )


def test_an_agents_own_tensors_are_extras() -> None:
    with ckptconv.open(AGENTS / "sac.zip") as checkpoint:
        found = checkpoint.extras["pytorch_variables.log_ent_coef"].numpy()
        assert found.tobytes() == read_by_torch("sac")["log_ent_coef"].tobytes()
        assert {name.split(".state.")[0] for name in checkpoint.extras} == {
            "pytorch_variables.log_ent_coef", "actor.optimizer", "critic.optimizer", "ent_coef_optimizer",
        }  # fmt: skip
        assert {one.name: one.use for one in checkpoint.notes.members} == {
            "data": "metadata", "pytorch_variables.pth": "extras", "policy.pth": "model",
            "actor.optimizer.pth": "extras", "critic.optimizer.pth": "extras", "ent_coef_optimizer.pth": "extras",
            "_stable_baselines3_version": "metadata", "system_info.txt": "metadata",
        }  # fmt: skip


@pytest.mark.parametrize("agent", ["ppo", "dqn", "sac"])
def test_an_ordinary_agent_names_classes_and_runs_nothing(agent: str, run: Run) -> None:
    found = ckptconv.inspect(AGENTS / f"{agent}.zip")
    assert found.verdict == "opaque"
    spaces = [use for use in found.opaque if use.where == "data: observation_space"]
    assert [use.node.name for use in spaces] == ["gymnasium.spaces.box.Box"]
    assert run("inspect", "--fail-on-code", str(AGENTS / f"{agent}.zip")).exit_code == 0


def test_bytecode_in_its_data_is_reported(run: Run, tmp_path: Path) -> None:
    path = AGENTS / "function.zip"
    found = ckptconv.inspect(path)
    assert found.verdict == "would run code"
    calls = [use for use in found.opaque if use.node.how == "called"]
    assert {use.where for use in calls} == {"data: learning_rate", "data: lr_schedule"}
    assert calls[0].node.name == "cloudpickle.cloudpickle._make_function"
    result = run("inspect", "--fail-on-code", str(path))
    assert (result.exit_code, "loading it with stable-baselines3 would make" in result.stdout) == (1, True)
    ckptconv.convert(path, tmp_path / "x.safetensors")  # a text stays one
    assert not ckptconv.inspect(tmp_path / "x.safetensors").opaque


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


def agent_with(path: Path, data: bytes, policy: object = None) -> Path:
    policy = {"w": torch.ones(2)} if policy is None else policy
    members = {"data": data, "policy.pth": saved_bytes(policy), "_stable_baselines3_version": b"2.9.2"}
    return zipped(path, members)


def serialized(value: object) -> bytes:
    text = base64.b64encode(pickle.dumps(value)).decode()
    return json.dumps({"seed": 0, "x": {":type:": "<class 'X'>", ":serialized:": text}}).encode()


def test_a_call_in_its_data_is_reported(tmp_path: Path) -> None:
    found = ckptconv.inspect(agent_with(tmp_path / "x.zip", serialized(Evil())))
    assert found.verdict == "would run code"
    assert [(use.where, use.node.name) for use in found.opaque] == [("data: x", "posix.system")]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "gASVAAAA", 5, None, ["a"]])
def test_a_pickle_that_cannot_be_followed_counts_as_one_that_runs(text: object, tmp_path: Path) -> None:
    data = json.dumps({"x": {":serialized:": text}}).encode()
    found = ckptconv.inspect(agent_with(tmp_path / "x.zip", data))
    if text is None:
        assert found.verdict == "plain"
    else:
        assert [use.node.name for use in found.opaque] == ["cloudpickle.loads"]


def test_values_and_arrays_in_its_data_are_no_news(tmp_path: Path) -> None:
    for value in (np.arange(3.0), {"a": (1, 2)}, torch.ones(2), np.float32(2)):
        assert ckptconv.inspect(agent_with(tmp_path / "x.zip", serialized(value))).verdict == "plain", value


@pytest.mark.parametrize(
    ("data", "agent"),
    [
        (serialized(1), True), (b'{"x": {":serialized:": "AAAA"', True), (b' {"a": 1, "a": 2}', True),
        (b'{"x": {"y": 1}, "z": 2}', False), (b"{}", False), (b"[1]", False), (b"5", False), (b"", False),
    ],
)  # fmt: skip
def test_data_alone_is_an_agents_where_the_library_would_unpickle_some(
    data: bytes, agent: bool, tmp_path: Path
) -> None:
    """The library loads the data before it looks for the policy."""
    with pytest.raises(UnsupportedError if agent else UnknownFormatError) as refused:
        ckptconv.open(zipped(tmp_path / "x.zip", {"data": data}))
    assert ("has no 'policy.pth'" in refused.value.message) is agent


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_data_that_is_no_object_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="JSON"):
        ckptconv.open(agent_with(tmp_path / "x.zip", data))


def test_data_that_is_nested_very_deeply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="nested deeper than"):
        ckptconv.open(agent_with(tmp_path / "x.zip", b'{"a":' * 70 + b"1" + b"}" * 70))


def test_a_policy_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no state_dict"):
        ckptconv.open(agent_with(tmp_path / "x.zip", b"{}", [torch.ones(2)]))


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    members = {"data": b"{}", "policy.pth": saved_bytes({"w": torch.ones(2)})[:-9], "_stable_baselines3_version": b"2"}
    with pytest.raises(CorruptFileError) as error:
        ckptconv.open(zipped(tmp_path / "x.zip", members))
    assert error.value.path == tmp_path / "x.zip" / "policy.pth"


def test_an_agent_that_is_cut_is_refused(tmp_path: Path) -> None:
    whole, path = (AGENTS / "ppo.zip").read_bytes(), tmp_path / "x.zip"
    for size in range(0, len(whole), 331):
        path.write_bytes(whole[:size])
        with pytest.raises(CkptconvError):
            ckptconv.open(path)


def test_a_compressed_agent_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(AGENTS / "ppo.zip") as file:
        members = {name: file.read(name) for name in file.namelist()}
    path = zipped(tmp_path / "x.zip", members, zipfile.ZIP_DEFLATED)
    assert ckptconv.diff(path, AGENTS / "ppo.zip").equal
