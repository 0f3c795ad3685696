"""DeepSpeed's folders: what its own tools read from them is read, in ranges and by name, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import ckptconv
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    LossError,
    UnsupportedError,
    UsageError,
)
from tests.support.deepspeed_files import TAG, model_file, model_states, optimizer_file, write

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint

OTHERS = Path(__file__).parents[4] / "fixtures" / "others" / "deepspeed"
READ = load_file(OTHERS / "read.safetensors")
STEP = "global_step3"
FOLDERS = sorted(path.name for path in OTHERS.iterdir() if path.is_dir())
FROZEN = {"frozen.weight", "frozen.bias"}
NAMES = [
    "scale", "mean", "count", "embed.weight", "fc.weight", "fc.bias", "norm.weight", "norm.bias", "frozen.weight",
    "frozen.bias", "back.weight", "head.weight",
]  # fmt: skip
GROUPS = [{"a": torch.arange(15.0).reshape(3, 5), "b": torch.arange(7.0) + 100}, {"c": torch.arange(4.0) - 50}]


def moments(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    head = "optimizer_state_dict.state."
    return {
        name.removeprefix(head): tensor.to_torch()
        for name, tensor in checkpoint.extras.items() if name.startswith(head) and "exp_avg" in name
    }  # fmt: skip


def of(folder: str) -> dict[str, torch.Tensor]:
    found = {name.partition("|")[2]: tensor for name, tensor in READ.items() if name.startswith(folder + "|")}
    assert found
    return found


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name not in ("stage-0", "stage-1-bf16-optimizer")])
def test_the_weights_are_those_that_zero_to_fp32_reads(folder: str) -> None:
    expected = {n: t for n, t in of(folder.removesuffix("-universal")).items() if "exp_avg" not in n}
    with ckptconv.open(OTHERS / folder) as checkpoint:
        found = checkpoint.to_torch()
        assert ["embed.weight", "head.weight"] in checkpoint.ties
    assert found.keys() - expected.keys() == (FROZEN if folder == "stage-1" else set())  # it leaves them out there
    for name, tensor in expected.items():
        if tensor.is_floating_point() and name == "mean":
            assert tensor.dtype is torch.float32  # buffers, which it casts
        else:
            assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name].to(tensor.dtype), tensor), name


@pytest.mark.parametrize(
    "folder", ["stage-1", "stage-1-bf16-optimizer", "stage-2", "stage-3", "stage-3-without-frozen"]
)
def test_the_optimizers_state_is_by_parameter_as_ds_to_universal_has_it(folder: str) -> None:
    expected = {name: tensor for name, tensor in of(folder).items() if "exp_avg" in name}
    with ckptconv.open(OTHERS / folder / STEP) as checkpoint:
        found = moments(checkpoint)
        state: Any = checkpoint.metadata["optimizer_state_dict"]
        groups = state["param_groups"]
        ours = checkpoint["embed.weight"].to_torch().shape
    assert found.keys() == expected.keys()
    assert len(found) == 14
    for name, tensor in expected.items():
        assert torch.equal(found[name].flatten(), tensor.flatten()), name
    assert found["embed.weight.exp_avg"].shape == ours
    assert [group["params"] for group in groups] == [
        ["embed.weight", "fc.weight", "back.weight"], ["scale", "fc.bias", "norm.weight", "norm.bias"],
    ]  # fmt: skip


@pytest.mark.parametrize("folder", ["stage-2", "stage-3"])
def test_a_universal_checkpoint_is_equal_to_what_it_was_made_from(folder: str) -> None:
    ours, universal = ckptconv.open(OTHERS / folder), ckptconv.open(OTHERS / f"{folder}-universal" / STEP)
    with ours, universal:
        assert list(ours) == list(universal) == NAMES
        assert ours.extras.keys() == universal.extras.keys()
    assert ckptconv.diff(OTHERS / folder, OTHERS / f"{folder}-universal").equal


@pytest.mark.parametrize("folder", ["stage-1-bf16-optimizer", "stage-2", "stage-2-in-turns"])
def test_the_weights_round_to_the_modules_own(folder: str) -> None:
    states = OTHERS / folder / STEP / "mp_rank_00_model_states.pt"
    with ckptconv.open(OTHERS / folder) as checkpoint, ckptconv.open(states) as file:
        found, module = checkpoint.to_torch(), file.to_torch()
    assert list(found) == list(module)
    assert {found[name].dtype for name in ("fc.weight", "scale")} == {torch.float32}
    for name, tensor in module.items():
        assert torch.equal(found[name].to(tensor.dtype), tensor), name


def test_without_zero_the_modules_tensors_are_the_models_and_the_optimizers_are_extras() -> None:
    states = torch.load(OTHERS / "stage-0" / STEP / "mp_rank_00_model_states.pt", weights_only=False)
    with ckptconv.open(OTHERS / "stage-0") as checkpoint:
        found = checkpoint.to_torch()
        assert any(name.startswith("optimizer.") for name in checkpoint.extras)
        assert checkpoint.metadata["ds_version"] == "0.19.8"
    assert list(found) == list(states["module"])
    assert all(torch.equal(found[name], tensor) for name, tensor in states["module"].items())


def test_what_the_client_saved_is_metadata_and_another_ranks_own_is_under_its_file() -> None:
    with ckptconv.open(OTHERS / "stage-3") as checkpoint:
        metadata: Any = checkpoint.metadata
    assert (metadata["epoch"], metadata["history"], metadata["rank"]) == (2, [("loss", 0.5)], 0)
    assert metadata["zero_pp_rank_1_mp_rank_00_model_states"] == {"rank": 1}
    assert metadata["zero_pp_rank_2_mp_rank_00_model_states"] == {"rank": 2}
    assert metadata["ds_config"]["zero_optimization"] == {"stage": 3, "sub_group_size": 40}
    assert not metadata.keys() & {"module", "param_shapes", "shared_params", "frozen_param_fragments", "state_dict"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_verdict_is_that_its_classes_are_unknown(folder: str) -> None:
    found = ckptconv.inspect(OTHERS / folder)
    assert found.verdict == ("plain" if folder == "stage-0" else "opaque")
    assert len([use for use in found.opaque if use.node.name.endswith("LossScaler")]) <= 1  # once, not once a rank


def test_an_optimizers_file_alone_calls_nothing_but_an_enum() -> None:
    found = ckptconv.inspect(OTHERS / "stage-2" / STEP / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert found.verdict == "opaque"
    assert [(use.node.args, use.node.how) for use in found.opaque if "ZeroStageEnum" in use.node.name] == [
        ((2,), "constructed")
    ]


@pytest.mark.parametrize("folder", ["stage-2", "stage-3"])
def test_torch_loads_what_it_is_converted_to(folder: str, tmp_path: Path) -> None:
    with pytest.raises(LossError) as caught:
        ckptconv.convert(OTHERS / folder, tmp_path / "whole.pth")
    assert [loss.code for loss in caught.value.losses] == ["opaque"]  # the loss scaler is an object
    ckptconv.convert(OTHERS / folder, tmp_path / "whole.pth", allow_loss=["opaque"])
    ckptconv.convert(OTHERS / folder, tmp_path / "bare.safetensors", bare=True)
    whole, bare = torch.load(tmp_path / "whole.pth"), load_file(tmp_path / "bare.safetensors")
    assert whole["state_dict"]["head.weight"].data_ptr() == whole["state_dict"]["embed.weight"].data_ptr()
    for name, tensor in of(folder).items():
        if "exp_avg" in name:
            parameter, _, key = name.rpartition(".")
            assert torch.equal(whole["optimizer_state_dict"]["state"][parameter][key].flatten(), tensor.flatten())
        else:
            assert torch.equal(whole["state_dict"][name].to(tensor.dtype), tensor)
            assert name == "head.weight" or torch.equal(bare[name].to(tensor.dtype), tensor)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), stage=st.sampled_from([1, 2, 3]), ranks=st.integers(1, 5))
def test_any_shapes_on_any_ranks(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, stage: int, ranks: int
) -> None:
    shapes = st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=4)
    groups: list[dict[str, Any]] = []
    count = 0
    for number, group in enumerate(data.draw(st.lists(shapes, min_size=1, max_size=3))):
        groups.append({})
        for i, shape in enumerate(group):
            groups[-1][f"g{number}.{i}"] = tensor = torch.arange(
                count, count + torch.Size(shape).numel(), dtype=torch.float32
            ).reshape(shape)
            count += tensor.numel()
    folder = write(tmp_path_factory.mktemp("any"), groups, stage=stage, ranks=ranks)
    with ckptconv.open(folder) as checkpoint:
        assert list(checkpoint) == [name for group in groups for name in group]
        kept = moments(checkpoint)
        for name, expected in (item for group in groups for item in group.items()):
            image = expected.numpy().tobytes()
            start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(image))] * 2)))
            assert torch.equal(checkpoint[name].to_torch(), expected)
            assert bytes(checkpoint[name].read(start, stop)) == image[start:stop]
            assert torch.equal(kept[f"{name}.exp_avg"], expected * 2)


@pytest.mark.parametrize("stage", [2, 3])
def test_opening_reads_headers_alone_and_a_run_in_one_file_is_a_span(stage: int, tmp_path: Path) -> None:
    groups = [{"big": torch.zeros(3_000_000), "small": torch.zeros(1)}]
    write(tmp_path / "x", groups, stage=stage, ranks=2)
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert checkpoint.file is not None
        assert checkpoint.file.size > 24_000_000
        assert checkpoint.file.bytes_read < 400_000  # type: ignore[attr-defined]
        assert checkpoint["small"].span is not None
        assert checkpoint["big"].span is None


def in_parts(folder: Path, module: dict[str, torch.Tensor]) -> Path:
    """A universal checkpoint of two mp_ranks, which have halves of "a" and of a padded vocabulary."""
    (folder / TAG).mkdir(parents=True)
    (folder / "latest_universal").write_text(TAG)
    cut = [{"a": torch.zeros(2, 5), "words": torch.zeros(4, 2)}]
    for part in (0, 1):
        states = model_states(cut, 2, buffer_names=["mean"]) | {"part": part}
        states["module"] |= module
        torch.save(states, folder / TAG / f"mp_rank_0{part}_model_states.pt")
    whole = {"a": torch.arange(20.0).reshape(4, 5), "words": torch.arange(14.0).reshape(7, 2), "mean": torch.ones(3)}
    for name, tensor in whole.items():
        (folder / TAG / "zero" / name).mkdir(parents=True)
        for file in ("fp32", "exp_avg", "exp_avg_sq")[: 1 if name == "mean" else 3]:
            marks = {"vocab_tensor": True} if name == "words" else {}
            torch.save({"param": tensor, "cat_dim": 0, **marks}, folder / TAG / "zero" / name / f"{file}.pt")
        torch.save(3, folder / TAG / "zero" / name / "step.pt")
    return folder


def test_tensor_parallelism_is_undone_in_a_universal_checkpoint(tmp_path: Path) -> None:
    with ckptconv.open(in_parts(tmp_path / "x", {"mean": torch.full((3,), 2.0)})) as checkpoint:
        found = checkpoint.to_torch()
        assert checkpoint.metadata["mp_rank_01_model_states"] == {"part": 1}
        state: Any = checkpoint.metadata["optimizer_state_dict"]
        assert state["state"]["a"]["step"] == 3
        assert moments(checkpoint)["words.exp_avg"].shape == (7, 2)
    assert torch.equal(found["a"], torch.arange(20.0).reshape(4, 5))
    assert torch.equal(found["words"], torch.arange(14.0).reshape(7, 2))
    assert torch.equal(found["mean"], torch.full((3,), 2.0))


def test_what_is_cut_and_in_no_file_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="frozen 'b' is cut"):
        ckptconv.open(in_parts(tmp_path / "x", {"b": torch.ones(2)}))


# What contradicts itself


def test_without_optimizer_states_a_whole_module_is_read_and_an_emptied_one_refused(tmp_path: Path) -> None:
    for stage in (2, 3):
        write(tmp_path / str(stage), GROUPS, stage=stage, ranks=1)
        (tmp_path / str(stage) / TAG / optimizer_file(0)).unlink()
    with ckptconv.open(tmp_path / "2") as checkpoint:
        assert {tensor.info.dtype.name for tensor in checkpoint.values()} == {"BF16"}
        assert [finding.code for finding in checkpoint.findings] == ["no-optim-states"]
    with pytest.raises(CorruptFileError, match="there are none"):
        ckptconv.open(tmp_path / "3")


def test_a_parameter_whose_values_were_not_saved_is_reported(tmp_path: Path) -> None:
    module = {
        "a": torch.zeros(0),
        "b": torch.zeros(0),
        "c": torch.zeros(0),
        "gone": torch.zeros(0),
        "kept": torch.ones(2),
    }
    write(tmp_path / "x", GROUPS, stage=3, ranks=1, model={"module": module})
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert list(checkpoint) == ["a", "b", "c", "kept"]
        assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("no-values", "gone")]


def test_a_state_that_is_not_one_of_flat_tensors_is_kept_rank_by_rank(tmp_path: Path) -> None:
    factored = {"state": {0: {"row": torch.ones(3)}}, "param_groups": [{"lr": 0.5, "params": [0, 1]}]}
    write(tmp_path / "x", GROUPS, stage=2, ranks=2, changed=1, optimizer={"base_optimizer_state": factored})
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert "optimizer-by-rank" in [finding.code for finding in checkpoint.findings]
        other = "zero_pp_rank_1_mp_rank_00_optim_states.optimizer_state_dict.base_optimizer_state.state.0.row"
        assert torch.equal(checkpoint.extras[other].to_torch(), torch.ones(3))
        assert "optimizer_state_dict.base_optimizer_state.state.0.exp_avg" in checkpoint.extras
        assert checkpoint.metadata["param_shapes"] == [{"a": (3, 5), "b": (7,)}, {"c": (4,)}]
        assert torch.equal(checkpoint["a"].to_torch(), GROUPS[0]["a"])


def test_a_client_may_use_any_keys(tmp_path: Path) -> None:
    client = {10**50: 1, (1, 2): 3, True: 4}
    write(tmp_path / "x", GROUPS, stage=3, ranks=2, model=client)
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert checkpoint.metadata[10**50] == 1
        assert checkpoint.metadata[1, 2] == 3
        assert checkpoint.metadata[True] == 4
        assert "zero_pp_rank_1_mp_rank_00_model_states" not in checkpoint.metadata


def test_a_clients_keys_do_not_hide_ours(tmp_path: Path) -> None:
    client = {"state_dict": 1, "optimizer_state_dict": 2}
    write(tmp_path / "x", GROUPS, stage=2, ranks=2, model=client)
    with ckptconv.open(tmp_path / "x") as checkpoint:
        assert list(checkpoint) == ["a", "b", "c"]
        assert checkpoint.metadata["state_dict#2"] == 1
        assert checkpoint.metadata["optimizer_state_dict"] == 2
        assert "optimizer_state_dict#2.state.a.exp_avg" in checkpoint.extras


def test_whole_weights_beside_latest_are_the_checkpoint_of_that_folder(tmp_path: Path) -> None:
    write(tmp_path / "x", GROUPS, stage=2, ranks=1)
    ckptconv.convert(tmp_path / "x", tmp_path / "x" / "model.safetensors", bare=True)
    for path, format in ((tmp_path / "x", "safetensors"), (tmp_path / "x" / TAG, "deepspeed")):
        with ckptconv.open(path) as checkpoint:
            assert checkpoint.format == format
    with ckptconv.open(tmp_path / "x", format="deepspeed") as checkpoint:
        assert checkpoint.format == "deepspeed"


def test_a_tag_without_a_folder_is_reported_only_if_it_is_named_like_one(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("global_step7\n")
    with pytest.raises(CorruptFileError, match="'global_step7', and there is no such folder"):
        ckptconv.open(tmp_path)
    (tmp_path / "latest").write_text("something")
    with pytest.raises(CkptconvError, match="is not a checkpoint itself"):
        ckptconv.open(tmp_path)


def test_a_folder_of_tags_without_latest_names_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "x", GROUPS, stage=2, ranks=1)
    (tmp_path / "x" / "latest").rename(tmp_path / "x" / "zero_to_fp32.py")
    with pytest.raises(CkptconvError, match="DeepSpeed") as caught:
        ckptconv.open(tmp_path / "x")
    assert "global_step" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no 'latest'"):
        ckptconv.open(tmp_path / "x", format="deepspeed")


def test_what_the_ranks_say_alike_is_kept_once(tmp_path: Path) -> None:
    alike = {
        "plain": [1, 2.5, None, "x", b"y", bytearray(b"z"), (1j, True)], "dtype": torch.float16, "names": {"a", "b"},
        "size": torch.Size([2]), "nested": {"a": {1: [(), {}]}},
    }  # fmt: skip
    for rank, own in enumerate(
        ({"rng": torch.ones(2), "seed": 1, "kind": 1}, {"rng": torch.ones(2), "seed": 2, "kind": True})
    ):
        write(tmp_path / str(rank), GROUPS, stage=3, ranks=2, model=alike | own, changed=rank)
    shutil.copy(tmp_path / "1" / TAG / model_file(1, 3), tmp_path / "0" / TAG)
    with ckptconv.open(tmp_path / "0") as checkpoint:
        other = checkpoint.metadata["zero_pp_rank_1_mp_rank_00_model_states"]
        assert list(other) == ["rng", "seed", "kind"]  # type: ignore[call-overload]
        assert [name for name in checkpoint.extras if name.endswith("rng")] == [
            "rng", "zero_pp_rank_1_mp_rank_00_model_states.rng",
        ]  # fmt: skip


# Hostile and damaged files


@pytest.mark.parametrize(("elements", "ranks"), [(1, 2), (1, 4), (5, 4), (13, 8)])
def test_a_group_with_more_padding_than_the_last_rank_has_elements(elements: int, ranks: int, tmp_path: Path) -> None:
    """A scale in a group of its own, or many ranks: zero_to_fp32.py reads it (0.19.8)."""
    groups = [{"a": torch.arange(15.0)}, {"scale": torch.arange(float(elements)) + 7}]
    with ckptconv.open(write(tmp_path / "x", groups, stage=2, ranks=ranks)) as checkpoint:
        assert torch.equal(checkpoint["scale"].to_torch(), groups[1]["scale"])
        assert torch.equal(moments(checkpoint)["scale.exp_avg"], 2 * groups[1]["scale"])
