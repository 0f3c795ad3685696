"""Files that the safetensors package wrote, and files of ours that it saved again after an edit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

import ckptconv
from ckptconv.errors import CorruptFileError, UnsupportedError
from tests.support.craft import saved
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
VALUE = {
    "hidden": [512, 256], "shape": (2, 3), "rate": 0.5, "name": "net", "flag": True, "none": None,
    "size": torch.Size([1, 2]), "extra": {"x": 1}, "set": {1, 2}, "empty": [], "state_dict": STATE,
}  # fmt: skip


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def strings_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def resaved(path: Path, edit: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> Path:
    """The file as another tool leaves it: loaded, edited and saved by the safetensors package."""
    tensors, strings = load_file(path), strings_of(path)
    edit(tensors, strings)
    save_file(tensors, path, metadata=strings)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    ckptconv.convert(saved(tmp_path / "v.pth", VALUE), tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors"


def back(path: Path) -> Any:
    target = path.with_name("back.pth")
    ckptconv.convert(path, target, force=True)
    return load(target)


def test_string_metadata_of_others_goes_through_a_pth_byte_for_byte(tmp_path: Path) -> None:
    strings = {"format": "pt", "author": 'ü\n\0"', "n": "3", "list": "[1, 2]", "null": "null", "": "", "x": " y "}
    save_file(STATE, tmp_path / "theirs.safetensors", metadata=strings)
    found = back(tmp_path / "theirs.safetensors")
    assert same_object(found["state_dict"], dict(STATE)) or set(found["state_dict"]) == set(STATE)
    assert {key: value for key, value in found.items() if key != "state_dict"} == strings
    ckptconv.convert(tmp_path / "back.pth", tmp_path / "again.safetensors")
    again = strings_of(tmp_path / "again.safetensors")
    assert {key: again[key] for key in strings} == strings
    assert same_object(load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "theirs.safetensors"))


def test_a_file_with_nothing_but_format_becomes_a_bare_state_dict(tmp_path: Path) -> None:
    for metadata in ({"format": "pt"}, None):
        save_file(STATE, tmp_path / "theirs.safetensors", metadata=metadata)
        assert set(back(tmp_path / "theirs.safetensors")) == set(STATE)


def test_a_tied_model_goes_into_the_packages_load_model(tmp_path: Path) -> None:
    model = Tied()
    ckptconv.convert(saved(tmp_path / "t.pth", model.state_dict()), tmp_path / "t.safetensors")
    other = Tied()
    missing, unexpected = load_model(other, tmp_path / "t.safetensors")
    assert not missing
    assert not unexpected
    assert same_object(dict(other.state_dict()), dict(model.state_dict()))
    assert other.head.weight is other.embed.weight


def test_what_save_model_wrote_is_read_with_its_tie(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "t.safetensors"))
    with ckptconv.open(tmp_path / "t.safetensors") as checkpoint:
        assert len(checkpoint.ties) == 1
        assert set(checkpoint.ties[0]) == {"embed.weight", "head.weight"}
    state = back(tmp_path / "t.safetensors")
    assert state["embed.weight"].data_ptr() == state["head.weight"].data_ptr()
    Tied().load_state_dict(state)


def test_a_file_of_ours_that_was_only_saved_again_is_the_same_checkpoint(ours: Path) -> None:
    assert same_object(back(resaved(ours, lambda tensors, strings: None)), VALUE)


EDITS: dict[str, tuple[str, str, Any]] = {
    "a list that stays one": ("hidden", "[1024]", [1024]),
    "a list with another type in it": ("hidden", '[1, "a"]', '[1, "a"]'),
    "a list for a tuple": ("shape", "[4, 5, 6]", (4, 5, 6)),
    "an int for a float": ("rate", "2", 2.0),
    "an int that no float can be": ("rate", str(2**53 + 1), str(2**53 + 1)),
    "a float for an int in a list": ("hidden", "[1.5]", "[1.5]"),
    "a float for a float": ("rate", "1e-3", 0.001),
    "text for text": ("name", "[1]", "[1]"),
    "text for a list": ("hidden", "many", "many"),
    "a bool for a bool": ("flag", "false", False),
    "an int for a bool": ("flag", "1", "1"),
    "a dict for a dict": ("extra", '{"x": 2, "y": [3]}', {"x": 2, "y": [3]}),
    "a list for a Size": ("size", "[7]", torch.Size([7])),
    "text for a Size": ("size", '["a"]', '["a"]'),
    "a value for None": ("none", "3", "3"),
    "an empty list": ("hidden", "[]", []),
    "a list for a set": ("set", "[5, 6]", {5, 6}),
    "what no set can hold": ("set", "[[5]]", "[[5]]"),
    "bytes of the file's in a set": (
        "set",
        '[{"$stored": ["b", {"$bytes": ""}]}]',
        '[{"$stored": ["b", {"$bytes": ""}]}]',
    ),
    "what is nested too deeply": ("empty", "[" * 400 + "]" * 400, "[" * 400 + "]" * 400),
}


@pytest.mark.parametrize(("key", "text", "expected"), EDITS.values(), ids=EDITS.keys())
def test_an_edited_string_takes_the_old_type_where_that_is_exact(
    key: str, text: str, expected: Any, ours: Path
) -> None:
    found = back(resaved(ours, lambda tensors, strings: strings.update({key: text})))
    assert same_object(found[key], expected)
    assert same_object({**found, key: VALUE[key]}, VALUE)


def test_a_new_string_is_a_string_and_a_missing_one_is_deleted(ours: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor], strings: dict[str, str]) -> None:
        strings["new"] = "[1, 2]"
        del strings["hidden"]

    found = back(resaved(ours, edit))
    assert found["new"] == "[1, 2]"
    assert "hidden" not in found
    assert list(found) == [*(key for key in VALUE if key != "hidden"), "new"]


def test_a_tensor_that_was_dropped_or_added_is_taken_as_it_is(ours: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor], strings: dict[str, str]) -> None:
        del tensors["b"]
        tensors["c"] = torch.zeros(4)

    found = back(resaved(ours, edit))
    assert set(found["state_dict"]) == {"a.weight", "c"}
    assert found["state_dict"]["c"].tolist() == [0] * 4


def test_a_tensor_that_was_changed_in_shape_and_type_is_taken_as_it_is(ours: Path) -> None:
    found = back(resaved(ours, lambda tensors, strings: tensors.update({"a.weight": torch.zeros(7).half()})))
    assert (found["state_dict"]["a.weight"].shape, found["state_dict"]["a.weight"].dtype) == ((7,), torch.half)


def test_a_tie_that_the_header_contradicts_is_ignored_with_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    ckptconv.convert(saved(tmp_path / "t.pth", Tied().state_dict()), path)
    dropped = next(iter({"embed.weight", "head.weight"} - set(load_file(path))))
    kept = next(iter({"embed.weight", "head.weight"} - {dropped}))
    resaved(path, lambda tensors, strings: tensors.update({dropped: torch.ones(5, 3)}))
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.ties == []
        assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("tie", dropped)]
    resaved(path, lambda tensors, strings: [tensors.pop(dropped), tensors.pop(kept)])
    with ckptconv.open(path) as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["tie"]
        assert set(checkpoint) == {"body.weight", "body.bias"}


def test_an_extra_that_was_dropped_is_a_finding(tmp_path: Path) -> None:
    value = {"state_dict": STATE, "ema": {"w": torch.ones(3)}, "best": [torch.zeros(2), 1]}
    path = tmp_path / "e.safetensors"
    ckptconv.convert(saved(tmp_path / "e.pth", value), path)
    resaved(path, lambda tensors, strings: [tensors.pop("ema.w"), tensors.pop("best.0")])
    with ckptconv.open(path) as checkpoint:
        assert {finding.where for finding in checkpoint.findings} == {"ema.w", "best.0"}
    assert same_object(back(path), {"state_dict": STATE, "ema": {}, "best": [None, 1]})


def test_a_record_of_a_newer_version_is_refused_by_name(ours: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor], strings: dict[str, str]) -> None:
        strings["ckptconv"] = json.dumps({**json.loads(strings["ckptconv"]), "version": 2})

    with pytest.raises(UnsupportedError, match="version 2") as error:
        ckptconv.open(resaved(ours, edit))
    assert "upgrade" in str(error.value.hint)


RECORDS = [
    "{", "{}", '{"version": "1"}', '{"version": true}', '{"version": 0}', '{"version": 1, "root": {"$nope": 1}}',
    '{"version": 1, "ties": [["a"]]}', '{"version": 1, "ties": 3}', '{"version": 1, "names": {"a": 1}}',
    '{"version": 1, "root": {"$dict": [[[], 1]]}}', '{"version": 1, "root": {"$int": "x"}}',
    '{"version": 1, "root": {"$bytes": "!"}}', '{"version": 1, "root": {"$stored": ["a", 3]}}',
    '{"version": 1, "encodings": {"b": 3}}', '{"version": 1, "strides": {"b": [-1]}}',
    '{"version": 1, "root": {"$defaultdict": ["os.system", []]}}', '{"version": 1, "parameters": 3}',
    '{"version": 1, "root": ' + "[" * 500 + "]" * 500 + "}", '{"version": 1, "root": ' + "[" * 90_000 + "}",
    '{"version": 1, "root": {"$numpy.array": ["<f4", [2], "C", ""]}}', '{"version": 1, "root": {"$torch.dtype": "os"}}',
    '{"version": 1, "root": {"$torch.device": "a b c"}}', '{"version": 1, "root": {"$numpy.scalar": ["O", ""]}}',
    '{"version": 1, "attributes": {"b": ' + "[" * 200 + "]" * 200 + "}}",
    '{"version": 1, "root": {"$opaque": {"class": "x", "how": "?"}}}', '{"version": 1, "root": {"$tensor": "gone"}}',
    '{"version": 1, "root": {"$tensor": "b"}}', '{"version": 1, "root": [{"$state_dict": {}}, {"$state_dict": {}}]}',
    '{"version": 1, "root": {"$state_dict": {"plain": [[99, "b", 1]]}}}',
    '{"version": 1, "root": {"$state_dict": {"prefix": "zzz"}}}', '{"version": 1, "ties": [["a", "b", 99]]}',
    '{"version": 1, "names": {"b": "a.weight"}}', '{"version": 1, "refs": "model", "root": {"x": {"$tensor": "b"}}}',
    '{"version": 1, "strides": {"b": [7, 7, 7]}}', '{"version": 1, "strides": {"a.weight": [1, 2]}}',
    '{"version": 1, "encodings": {"b": {"dtype": "C128", "shape": [1]}}}', '{"version": 1, "arch": {"$dict": 3}}',
    '{"version": 1, "encodings": {"b": {"dtype": "BF16", "shape": [1, 2, 1]}}}', '{"version": 1, "devices": {"x": 1}}',
    '{"version": 1, "root": {"a": {"$stored": ["b", {"$bytes": ""}]}, "b": {"$stored": ["b", {"$bytes": ""}]}}}',
    '{"version": 1, "root": {"$state_dict": {"versions": {"a": {"version": {"$stored": ["b", {"$bytes": ""}]}}}}}}',
    '{"version": 1, "root": {"$state_dict": {"versions": {"a": {"version": {"$tensor": "b"}}}}}}',
    '{"version": 1, "root": {"$dict": [[{"$stored": ["b", {"$bytes": ""}]}, 1]]}}',
    '{"version": 1, "root": {"$set": [{"$tuple": [{"$stored": ["b", {"$bytes": ""}]}]}]}}',
    '{"version": 1, "root": {"$opaque": {"class": "x", "how": "object", "pairs": [[{"$state_dict": {}}, 1]]}}}',
    '{"version": 1, "attributes": {"b": {"$stored": ["b", {"$bytes": ""}]}}}',
    '{"version": 1, "digest": 3}', '{"version": 1, "source": 3}', '{"version": 1, "root": {"$set": [[1]]}}',
]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_a_record_that_makes_no_sense_is_refused_or_read_and_written_again(record: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(STATE, path, metadata={"ckptconv": record, "a": "1"})
    for target in ("y.pth", "y.safetensors"):
        try:
            ckptconv.convert(path, tmp_path / target, allow_loss=["all"])
        except CorruptFileError as error:
            assert error.hint
        else:
            if target.endswith("pth"):
                load(tmp_path / target)
            ckptconv.open(tmp_path / target).close()


def test_a_key_of_the_users_that_we_need_ourselves_lives_in_the_record(tmp_path: Path) -> None:
    value = {
        "ckptconv": "mine",
        "format": ["not", "a", "string"],
        "head.weight": "tied",
        "state_dict": Tied().state_dict(),
    }
    path = tmp_path / "x.safetensors"
    ckptconv.convert(saved(tmp_path / "x.pth", value), path)
    assert strings_of(path)["format"] == "pt"
    assert same_object(back(path), value)


def test_a_foreign_file_with_a_key_of_our_name_is_just_a_string(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors", metadata={"ckptconv": "was here"})
    assert back(tmp_path / "x.safetensors")["ckptconv"] == "was here"


def test_the_readable_strings_read_well(ours: Path) -> None:
    strings = strings_of(ours)
    assert (strings["hidden"], strings["name"], strings["flag"], strings["format"]) == (
        "[512, 256]",
        "net",
        "true",
        "pt",
    )


def test_names_that_the_package_refuses_are_escaped_and_come_back(tmp_path: Path) -> None:
    state = {
        "__metadata__": torch.ones(1),
        "\ud800": torch.zeros(2),
        "\\ud800#": torch.ones(3),
        "a\0b\n": torch.ones(4),
    }
    path = tmp_path / "n.safetensors"
    ckptconv.convert(saved(tmp_path / "n.pth", state), path)
    assert len(load_file(path)) == 4
    assert same_object(back(path), state)


def test_ties_of_names_that_no_string_can_be_are_in_the_record_alone(tmp_path: Path) -> None:
    one, two = torch.ones(2), torch.zeros(3)
    state = {"\ud800.w": one, "a.w": one, "b.w": two, "\udfff.v": two, "c.w": two}
    path = tmp_path / "n.safetensors"
    ckptconv.convert(saved(tmp_path / "n.pth", state), path)
    assert {key for key, value in strings_of(path).items() if key not in ("format", "ckptconv")} == {"c.w"}
    found = back(path)
    assert list(found) == list(state)
    assert [name for name in found if found[name].data_ptr() == found["a.w"].data_ptr()] == ["\ud800.w", "a.w"]


@pytest.mark.parametrize("kind", ["dtype", "qscheme", "memory_format", "layout", "device"])
@pytest.mark.parametrize("name", ["os", "load", "hub.load", "os\nsystem", "", "x" * 10_000])
def test_a_record_cannot_make_us_write_a_global_of_its_choice(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    record = json.dumps({"version": 1, "root": {"k": {f"$torch.{kind}": name}, "state_dict": {"$state_dict": {}}}})
    save_file(STATE, path, metadata={"ckptconv": record, "k": json.dumps({f"$torch.{kind}": name})})
    if kind == "device" and name in ("os", "load"):
        return  # any word may be a device; torch says what it thinks of it
    with pytest.raises(CorruptFileError):
        ckptconv.convert(path, tmp_path / "y.pth")
    assert not (tmp_path / "y.pth").exists()
