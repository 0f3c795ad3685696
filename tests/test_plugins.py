"""A format of another package: found by its entry point, as good as ours; a broken one is named, never fatal."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from ckptconv.errors import LossError, PluginError, UnknownFormatError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.base import Format
from ckptconv.formats.targets import preflight
from ckptconv.testing import FormatTests
from tests.support.craft import saved
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = Path(__file__).parent / "plugin_package"


@contextmanager
def installed() -> Iterator[None]:
    """The plug-in's packages are there for these tests, and for no other: they run in one process."""
    sys.path.append(str(PACKAGES))
    importlib.invalidate_caches()
    registry.plugins.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(PACKAGES))
        registry.plugins.cache_clear()


def plugin_format() -> Format:
    with installed():
        return importlib.import_module("ckptconv_jsonraw").FORMAT


class TestJsonRaw(FormatTests):
    """The conformance suite, as the plug-in's own tests would run it."""

    format = plugin_format()


@pytest.fixture(autouse=True)
def with_the_plugin() -> Iterator[None]:
    with installed():
        yield


VALUE = {"epoch": 3, "state_dict": {"w": torch.ones(2), "v": torch.zeros(3)}}


def test_it_is_found_by_name_by_suffix_and_by_its_bytes(tmp_path: Path) -> None:
    state = {"w": torch.ones(2), "v": torch.zeros(3).half()}
    path = saved(tmp_path / "in.pth", state)
    ckptconv.convert(path, tmp_path / "a.jsonraw")
    ckptconv.convert(path, tmp_path / "b.bin", to_format="jsonraw")
    assert (tmp_path / "a.jsonraw").read_bytes() == (tmp_path / "b.bin").read_bytes()
    with ckptconv.open(tmp_path / "b.bin") as checkpoint:
        assert checkpoint.format == "jsonraw"
    ckptconv.convert(tmp_path / "b.bin", tmp_path / "back.pth")
    assert set(load(tmp_path / "back.pth")) == set(state)
    assert registry.by_name("jsonraw") in registry.all_formats()


def test_what_it_cannot_hold_needs_consent_code_by_code(tmp_path: Path) -> None:
    shared = torch.ones(2)
    value = {"epoch": 3, "state_dict": {"a": shared, "b": shared, "c": torch.ones(1, dtype=torch.complex128)}, "ema": {
        "a": torch.zeros(2)
    }}  # fmt: skip
    path = saved(tmp_path / "in.pth", value)
    target = tmp_path / "out.jsonraw"
    with pytest.raises(LossError) as error:
        ckptconv.convert(path, target)
    assert {loss.code for loss in error.value.losses} == {"dtype", "tie", "extras", "metadata"}
    assert all(f"--allow-loss {loss.code}" in str(error.value.hint) for loss in error.value.losses)
    assert len(error.value.details) == 4
    with pytest.raises(LossError) as error:
        ckptconv.convert(path, target, allow_loss=["metadata", "extras", "dtype"])
    assert [loss.code for loss in error.value.losses] == ["tie"]
    dry = ckptconv.convert(path, target, dry_run=True)
    assert {loss.code for loss in dry.losses} == {"dtype", "tie", "extras", "metadata"}
    assert not target.exists()
    with pytest.raises(LossError) as error:
        ckptconv.convert(path, target, bare=True)
    assert {loss.code for loss in error.value.losses} == {"dtype", "tie"}
    assert set(preflight.CODES) >= {loss.code for loss in dry.losses}


def test_consent_to_all_goes_on_without(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.pth", VALUE)
    for number, allowed in enumerate((["metadata"], ["all"])):
        result = ckptconv.convert(path, tmp_path / f"{number}.jsonraw", allow_loss=allowed)
        assert [loss.code for loss in result.losses] == ["metadata"]
    ckptconv.convert(tmp_path / "1.jsonraw", tmp_path / "back.pth")
    assert same_object(dict(load(tmp_path / "back.pth")), VALUE["state_dict"])


def test_broken_plug_ins_are_named_and_the_others_still_work(tmp_path: Path) -> None:
    formats, errors = registry.plugins()
    assert [one.name for one in formats] == ["failing", "jsonraw"]
    causes = {
        "absent": "No module named 'no_such_module'", "ending": "it ends the process",
        "raising": "RAISES is broken on purpose", "taken": "there is a format 'npz' already",
        "wrong": "'int' object is not iterable",
    }  # fmt: skip
    for (name, cause), error in zip(causes.items(), errors, strict=True):
        assert isinstance(error, PluginError)
        assert f"the plug-in {name!r} (" in str(error)
        assert str(error).endswith(f"does not load: {cause}")
    (tmp_path / "noise").write_bytes(b"\x17\x23" * 50)
    with pytest.raises(UnknownFormatError) as unknown:
        ckptconv.open(tmp_path / "noise")
    assert "absent" in str(unknown.value.hint)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"FAIL in claims", "fails in 'broken_plugin:claims': ZeroDivisionError: it is broken on purpose"),
        (b"FAIL in read", "fails in 'broken_plugin:read': ZeroDivisionError: it is broken on purpose"),
        (b"FAIL", "fails in 'broken_plugin:read': it gives int, and no Checkpoint"),
    ],
)
def test_a_plug_in_that_fails_is_named_as_what_failed(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.failing").write_bytes(data)
    with pytest.raises(PluginError) as error:
        ckptconv.open(tmp_path / "a.failing")
    assert str(error.value) == f"{tmp_path / 'a.failing'}: the plug-in of the format 'failing' {said}"


def test_a_plug_in_that_fails_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ckptconv.convert(saved(tmp_path / "in.pth", {"w": torch.ones(2)}), tmp_path / "a.jsonraw")
    (failing, jsonraw), errors = registry.plugins()
    always = replace(failing, magic=(), claims="broken_plugin:NUMBER")
    monkeypatch.setattr(registry, "plugins", lambda: ((always, jsonraw), errors))
    with ckptconv.open(tmp_path / "a.jsonraw") as checkpoint:
        assert checkpoint.format == "jsonraw"


def test_a_name_that_is_nearly_one_is_suggested() -> None:
    with pytest.raises(UsageError) as error:
        registry.by_name("jsonrow")
    assert "jsonraw" in str(error.value.hint)
    with pytest.raises(UsageError) as error:
        registry.by_name("zzz")
    assert "torch" in str(error.value.hint)
    with pytest.raises(UsageError) as error:
        registry.by_suffix(Path("model.caffemodel"))
    assert ".safetensors" in str(error.value.hint)


@pytest.mark.parametrize("missing", ["no_such_module:read", "ckptconv_jsonraw.files:no_such_function"])
def test_a_format_that_names_missing_functions_is_a_plug_in_error(missing: str, tmp_path: Path) -> None:
    odd = Format(name="odd", summary="odd", suffixes=(".odd",), claims=missing, reader=missing, writer=missing)
    (tmp_path / "x.odd").write_bytes(b"abc")
    from ckptconv.io.source import Source

    with Source(tmp_path / "x.odd") as source:
        for function in (odd.claims_file, odd.read):
            with pytest.raises(PluginError, match="'odd'"):
                function(source)


def test_listing_the_built_in_formats_and_using_them_loads_no_plug_in() -> None:
    program = (
        "import sys, ckptconv.formats.registry as r; r.by_name('torch'); r.by_name('safetensors'); "
        "print([m for m in sys.modules if 'jsonraw' in m or m.startswith('ckptconv.formats.torch.')])"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(PACKAGES), *filter(None, sys.path)])}  # from any folder
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
