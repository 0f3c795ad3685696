"""``ckptconv formats``: the table, one format, plug-ins that are broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.cli import output
from ckptconv.cli.text import formats as text
from ckptconv.errors import PluginError
from ckptconv.formats import registry

from .conftest import Run, strict

if TYPE_CHECKING:
    import pytest


def test_the_table_has_a_row_for_each_format(run: Run) -> None:
    result = run("formats")
    assert result.exit_code == 0
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["NAME", "READ", "WRITE", "SUFFIXES", "SUMMARY"]
    assert [row.split()[0] for row in rows] == [one.name for one in registry.BUILTIN]
    assert all(one.summary in result.stdout for one in registry.BUILTIN)


def test_on_a_narrow_terminal_what_each_is_stands_below_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "columns", lambda: 80)
    head, *rows = text.formats(registry.BUILTIN, [])
    assert head.split() == ["NAME", "READ", "WRITE", "SUFFIXES"]
    assert [row.split()[0] for row in rows[::2]] == [one.name for one in registry.BUILTIN]
    assert rows[1::2] == [f"  {one.summary}" for one in registry.BUILTIN]
    monkeypatch.setattr(output, "columns", lambda: 300)
    assert len(text.formats(registry.BUILTIN, [])) == 1 + len(registry.BUILTIN)


def test_one_format_says_what_it_holds(run: Run) -> None:
    result = run("formats", "safetensors")
    assert result.exit_code == 0
    for word in ("suffixes", "dtypes", "ties", "metadata", "extras", "BF16"):
        assert word in result.stdout


def test_on_a_narrow_terminal_one_format_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in registry.BUILTIN:
        monkeypatch.setattr(output, "columns", lambda: 0)
        whole = text.one_format(one)
        monkeypatch.setattr(output, "columns", lambda: 80)
        lines = text.one_format(one)
        assert max(map(len, lines[1:])) <= 80
        assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())


def test_what_a_format_would_keep_is_reported_only_of_one_that_is_written(run: Run) -> None:
    for one in registry.BUILTIN:
        said = {line.split()[0] for line in run("formats", one.name).stdout.splitlines()[1:]}
        assert {"suffixes", "read", "write"} <= said
        assert ("metadata" in said) == bool(one.writer)


def test_a_misspelt_format_gets_the_nearest(run: Run) -> None:
    result = run("formats", "safetensor")
    assert result.exit_code == 2
    assert result.stderr == "ckptconv: error: there is no format 'safetensor'\nhint: did you mean 'safetensors'?\n"


def test_a_broken_plug_in_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PluginError("the plug-in 'gguf\x1b[31m' does not load: no module")
    monkeypatch.setattr(registry, "plugins", lambda: ((), (broken,)))
    result = run("formats")
    assert result.exit_code == 0
    assert r"warning: the plug-in 'gguf\x1b[31m' does not load: no module" in result.stdout
    assert strict(run("formats", "--json").stdout)["broken"][0]["code"] == "plugin"


def test_json_describes_each_format(run: Run) -> None:
    formats = strict(run("formats", "--json").stdout)["formats"]
    assert isinstance(formats, list)
    assert [one["name"] for one in formats] == [one.name for one in registry.BUILTIN]
    alone = strict(run("formats", "torch", "--json").stdout)
    assert {key: value for key, value in alone.items() if key != "schema"} == formats[0]
