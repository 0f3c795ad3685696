"""JSON from files: what Python's own reader lets pass in silence is refused, in one way wherever it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ckptconv.arch.huggingface import ConfigFactory
from ckptconv.core import record, strict_json
from ckptconv.core.metadata import MAX_DEPTH
from ckptconv.core.record_edits import take_edits
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError

if TYPE_CHECKING:
    from pathlib import Path

TWICE = '{"a": {"b": 1, "b": 1}}'
DEEP = "[" * 100_000
NUMBER = "[" + "1" * 5000 + "]"


@pytest.mark.parametrize("text", ["", "{", "nul", TWICE, DEEP, NUMBER, b"\xff", b"\xef\xbb\xbf{}"], ids=range(8))
def test_what_is_no_json_or_says_a_thing_twice_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        strict_json.loads(text)
    with pytest.raises(CorruptFileError, match=r"^'x' is not JSON: .") as refused:
        strict_json.document(text, "'x'", hint="copy it again")
    assert refused.value.hint == "copy it again"


def test_infinities_are_read_as_configurations_have_them() -> None:
    assert strict_json.loads('{"time_step_limit": [0.0, Infinity]}') == {"time_step_limit": [0.0, float("inf")]}


@pytest.mark.parametrize("text", ["[]", "3", "null", '"{}"'])
def test_another_document_than_an_object_is_refused(text: str) -> None:
    with pytest.raises(CorruptFileError, match="x is not a JSON object"):
        strict_json.object_of(text, "x", hint="")


def test_a_document_is_as_deep_as_metadata_may_be() -> None:
    most = MAX_DEPTH - 1
    strict_json.check_depth(json.loads("[" * most + "]" * most), "x")
    with pytest.raises(LimitError, match="x is nested deeper than"):
        strict_json.check_depth(json.loads("[" * (most + 1) + "]" * (most + 1)), "x")


def test_a_record_and_a_configuration_that_say_a_thing_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CkptconvError, match="'version' comes twice"):
        record.parse('{"version": 1, "version": 1}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "model_type": "llama"}')
    with pytest.raises(CorruptFileError, match="'model_type' comes twice") as refused:
        ConfigFactory(tmp_path / "config.json")
    assert refused.value.path == tmp_path / "config.json"


def test_an_edited_value_that_says_a_thing_twice_stays_a_text() -> None:
    said = record.Record(root={"sizes": {"a": 1}})
    assert take_edits(said, {"sizes": '{"a": 2}'}) == {"sizes": {"a": 2}}
    assert take_edits(said, {"sizes": '{"a": 2, "a": 3}'}) == {"sizes": '{"a": 2, "a": 3}'}
