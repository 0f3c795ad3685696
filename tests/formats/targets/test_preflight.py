"""What would be lost, and what is only worth a word, is said before the first byte is written."""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import LossError
from tests.support.craft import FOUR_FLOATS, archive, saved, state_dict, tensor, text
from tests.support.nodes import load

if TYPE_CHECKING:
    from pathlib import Path

STATE = {"w": torch.ones(2)}
NEEDS_UNPICKLING = {
    "a frozenset": frozenset([1]),
    "a defaultdict": defaultdict(list, {"a": [1]}),
    "a numpy array": np.arange(3),
    "a numpy scalar": np.float32(1),
}


@pytest.mark.parametrize("value", NEEDS_UNPICKLING.values(), ids=NEEDS_UNPICKLING.keys())
def test_a_finding_says_where_torch_will_want_weights_only_false(value: object, tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"deep": [{"x": value}], "state_dict": STATE})
    ckptconv.convert(path, tmp_path / "mid.safetensors")
    result = ckptconv.convert(tmp_path / "mid.safetensors", tmp_path / "out.pth")
    assert [(f.code, f.severity, f.where) for f in result.findings] == [("needs-unpickling", "info", "deep[0].x")]
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load(tmp_path / "out.pth")
    load(tmp_path / "out.pth", weights_only=False)


def test_plain_metadata_gives_no_finding_and_no_loss(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"n": [1, (2.0, "x")], "state_dict": STATE})
    for target in ("out.safetensors", "out.pth"):
        result = ckptconv.convert(path, tmp_path / target)
        assert (result.losses, result.findings) == ([], [])


def test_an_object_of_an_unknown_class_is_a_loss_where_a_pth_is_written_and_none_elsewhere(tmp_path: Path) -> None:
    odd = b"cmodels\nConfig\n)\x81}" + text("width") + b"K\x03sb"
    path = archive(tmp_path / "in.pth", state_dict(w=tensor(), config=odd), {"0": FOUR_FLOATS})
    assert ckptconv.convert(path, tmp_path / "out.safetensors").losses == []
    for source in (path, tmp_path / "out.safetensors"):
        with pytest.raises(LossError) as error:
            ckptconv.convert(source, tmp_path / "out.pth")
        assert [(loss.code, loss.where) for loss in error.value.losses] == [("opaque", "config")]
        assert "models.Config" in error.value.details[0]
    ckptconv.convert(tmp_path / "out.safetensors", tmp_path / "out.pth", allow_loss=["opaque"])
    found = load(tmp_path / "out.pth")
    assert found["config"] == {"class": "models.Config", "how": "object", "state": {"width": 3}}


def test_settings_paths_names_and_torchs_version_become_plain_values(tmp_path: Path) -> None:
    """What trainers keep beside the weights (flair, Lightning, timm): torch loads it with weights_only then."""
    out, act = PurePosixPath("/data/x"), torch.nn.functional.relu
    args = argparse.Namespace(lr=0.1, out=out, version=torch.__version__, act=act)
    path = saved(tmp_path / "in.pth", {"args": args, "state_dict": STATE})
    with pytest.raises(LossError) as error:
        ckptconv.convert(path, tmp_path / "out.pth")
    assert [loss.where for loss in error.value.losses] == ["args"]
    ckptconv.convert(path, tmp_path / "out.pth", allow_loss=["opaque"])
    values = {"lr": 0.1, "out": "/data/x", "version": str(torch.__version__), "act": "torch.nn.functional.relu"}
    assert load(tmp_path / "out.pth")["args"] == values


def test_losses_of_one_kind_are_reported_once_and_listed_all_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", {"times": [timedelta(n) for n in range(9)], "state_dict": STATE})
    with pytest.raises(LossError) as error:
        ckptconv.convert(path, tmp_path / "out.pth")
    assert len(error.value.losses) == 9
    (line,) = error.value.details
    assert line.startswith("opaque: times[0] is a datetime.timedelta")
    assert line.endswith(" (and 8 more like it)")


def test_a_file_without_a_tensor_is_converted_with_a_warning(tmp_path: Path) -> None:
    result = ckptconv.convert(saved(tmp_path / "in.pth", {"n": 1}), tmp_path / "out.safetensors")
    assert [(finding.code, finding.severity) for finding in result.findings] == [("no-tensors", "warning")]
