"""Chat templates that reach for Python's internals: what a plain Jinja does with them, its sandbox refuses."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import pytest
from click.testing import CliRunner
from gguf import GGUFWriter
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

import ckptconv
from ckptconv.cli.main import program
from ckptconv.formats.gguf.templates import programs_in
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from pathlib import Path

KEY = "tokenizer.chat_template"
ATTACKS = {
    "from a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "from a function": "{% set x = cycler.__init__.__globals__.os %}{{ x.getcwd() }}",
    "as an item": "{{ cycler['__init__']['__globals__'] }}",
    "by a filter": "{{ cycler|attr('__init__')|attr('__globals__') }}",
    "in pieces": "{{ cycler|attr('_' ~ '_init_' ~ '_')|attr('_' ~ '_globals_' ~ '_') }}",
    "in two texts": "{{ cycler['__ini' 't__'] }}",
    "joined": "{{ cycler['__ini' ~ 't__'] }}",
    "as the name of an argument": "{{ cycler[dict(__init__=1)|first] }}",
    "by a filter of a filter": "{{ [cycler]|map('attr', '_' ~ '_init_' ~ '_')|first }}",
    "multiplied": "{{ cycler['_' * 2 ~ 'init' ~ '_' * 2] }}",
    "formatted": "{{ cycler['%c%cinit%c%c'|format(95, 95, 95, 95)] }}",
    "by the letter's name": r"{{ cycler['\N{LOW LINE}\N{LOW LINE}init\N{LOW LINE}\N{LOW LINE}'] }}",
    "by a letter of a function": "{% set u = (lipsum|string)[18] %}{{ cycler[u ~ u ~ 'init' ~ u ~ u] }}",
    "by a format": "{{ cycler['{0}{0}init{0}{0}'.format('_')] }}",
    "by an old format": "{{ cycler['_%sinit_%s' % ('_', '_')] }}",
    "by a number": "{{ cycler['{0:c}{0:c}init{0:c}{0:c}'.format(95)] }}",
    "in a list": "{{ cycler[['_', '_', 'init', '_', '_']|join] }}",
    "in a variable": "{% set u = '_' %}{% set a = u ~ u ~ 'init' ~ u ~ u %}{{ cycler[a] }}",
    "in a block": "{% set a %}__init__{% endset %}{{ cycler[a] }}",
    "in a macro": "{% macro m() %}__init__{% endmacro %}{{ cycler[m()|string] }}",
    "given by a macro": "{% macro m() %}__init__{% endmacro %}{% set a = m() %}{{ cycler[a] }}",
    "given to a macro": "{% set u = dict(_=1)|first %}{% macro m(a) %}{{ cycler[a] }}{% endmacro %}"
    "{{ m(u ~ u ~ 'init' ~ u ~ u) }}",
    "by a loop": "{% set u = dict(_=1)|first %}{% for a in [u ~ u ~ 'init' ~ u ~ u] %}{{ cycler[a] }}{% endfor %}",
    "in a namespace": "{% set u = dict(_=1)|first %}{% set ns = namespace() %}{% set ns.a = u ~ u ~ 'init' ~ u ~ u %}"
    "{{ cycler[ns.a] }}",
    "in a dict": "{% set u = dict(_=1)|first %}{% set d = {'a': u ~ u ~ 'init' ~ u ~ u} %}{{ cycler[d.a] }}",
    "stripped": "{{ cycler['x__init__x'.strip('x')] }}",
    "sliced": "{{ cycler['x__init__x'[1:-1]] }}",
    "as an attribute of many": "{% set u = dict(_=1)|first %}"
    "{{ [cycler]|map(attribute=u ~ u ~ 'init' ~ u ~ u)|first }}",
    "by a frame": "{{ ([1]|map('int')).gi_frame.f_builtins.len }}",
    "by the context": "{{ self._TemplateReference__context.environment }}",
    "spelled out": r"{{ cycler['\x5f\x5finit\x5f\x5f']['\x5f\x5fglobals\x5f\x5f'] }}",
    "behind a mark in a text": "{{ '}}'.__class__ }}",
    "behind braces": "{{ {'a': {}}.__class__ }}",
    "behind a comment": "{# {{ ' #}{{ ' }} '.__class__ }}",
    "in a statement": "{% set x = '%}'.__class__ %}{{ x }}",
    "among honest ones": "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ messages.__class__.__base__ }}",
}
HONEST = {
    "ChatML": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']}}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "Llama 2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% else %}"
    "{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{{ bos_token + '[INST] ' + "
    "message['content'].strip() + ' [/INST]' }}{% endfor %}",
    "tools": "{%- set ns = namespace(index=0) %}{%- for tool in tools %}{{- tool | tojson(indent=4) }}"
    "{%- set ns.index = ns.index + 1 %}{%- endfor %}",
    "names of a namespace": "{% set ns = namespace(text='', i=0) %}{% for m in messages %}"
    "{% set ns.text = ns.text ~ m['content'] %}{{ messages[ns.i]['role'] }}{% endfor %}{{ ns.text }}",
    "items by names": "{% macro shown(fields, done) %}{% for key in fields if key not in done %}{{ fields[key] ~ key }}"
    "{% endfor %}{% endmacro %}{% for t in tools %}{% for key, value in t|items %}{{ t[key] }}{% endfor %}"
    "{{ shown(t, ['type']) }}{% endfor %}",
    "the last of them": "{{ messages[messages|length - 1]['content'] }}{{ messages[-1].content.split('</think>')[-1] }}"
    "{% for m in messages[::-1] %}{{ messages[loop.index0 - 1].role }}{% endfor %}",
    "a date": "{{ '2024-%d'|format(1) }}{{ '{:>4}'.format('x') }}{{ '20% chance of 1.5% c' }}",
    "Python in the text": "You write Python, with `if __name__ == '__main__':` and x.__init__(). "
    "{{ messages[0]['content'] }}",
    "attributes called so": "{{ messages|map(attribute='role')|join(', ') }}"
    "{{ messages|selectattr('role')|list|length }}",
}


def model(path: Path, template: str, key: str = "tokenizer.chat_template") -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_string(key, template)
    writer.add_tensor("w", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rendered(environment: jinja2.Environment, template: str) -> str:
    messages = [{"role": "user", "content": "hi"}]
    return environment.from_string(template).render(messages=messages, tools=[{"name": "t"}], bos_token="<s>")


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_counts_as_code(name: str, key: str, tmp_path: Path) -> None:
    template = ATTACKS[name]
    assert rendered(jinja2.Environment(), template)
    with suppress(SecurityError):  # or what the filter gives there is nothing
        assert rendered(ImmutableSandboxedEnvironment(), template) == ""
    path = model(tmp_path / "m.gguf", template, key)
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "would run code"
    assert [use.where for use in inspection.opaque] == [key]
    result = CliRunner().invoke(program, ["inspect", "--fail-on-code", str(path)])
    assert result.exit_code == 1
    assert "loading it with a Jinja without a sandbox would make 1 call" in result.output


@pytest.mark.parametrize("name", HONEST)
def test_no_honest_template_does(name: str, tmp_path: Path) -> None:
    assert rendered(ImmutableSandboxedEnvironment(), HONEST[name])
    assert ckptconv.inspect(model(tmp_path / "m.gguf", HONEST[name])).verdict == "plain"


def test_the_text_is_carried_and_other_keys_are_texts(tmp_path: Path) -> None:
    attack = ATTACKS["from a text"]
    path = model(tmp_path / "m.gguf", attack)
    ckptconv.convert(path, tmp_path / "again.gguf")
    assert ckptconv.inspect(tmp_path / "again.gguf").verdict == "would run code"
    assert ckptconv.diff(path, tmp_path / "again.gguf").equal
    assert ckptconv.inspect(model(tmp_path / "other.gguf", attack, "general.description")).verdict == "plain"


PIECES = (
    "{{ ", " }}", "{% set x = ", " %}", "{# ", " #}", "'", '"', "{", "}", "(", ")", "[", "]", "\\", " ", "1", "~ x",
    "x.__class__", "''.__class__", "{% raw %}", "{% endraw %}", "{{ '", "' }}", "{{ x.__class__ }}",
)  # fmt: skip


def test_whatever_jinja_takes_for_code_is_looked_at() -> None:
    """Jinja's own parser says which of these are templates, and which attributes these ask for."""
    environment, drawn, reaching = jinja2.Environment(), random.Random(7), 0
    for _ in range(12_000):
        text = "".join(drawn.choices(PIECES, k=drawn.randint(1, 7)))
        with suppress(jinja2.TemplateSyntaxError):
            asked = {node.attr for node in environment.parse(text).find_all(jinja2.nodes.Getattr)}
            reaching += "__class__" in asked
            found = [name for one in programs_in({KEY: ("string", text)}) for name in one.node.args]
            assert "__class__" not in asked or found, text
    assert reaching > 300


@pytest.mark.parametrize(
    "piece",
    [
        "{{",
        "{%",
        "{#",
        "{% raw %}",
        "{{'",
        '{{"\\',
        "{{(",
        "{{ .",
        "{{ |",
        "{{ x.__a",
        "{{ x[",
        "{{ m(",
        "{% set a = b %}",
        "{{ '{:",
    ],
)
def test_a_template_takes_time_by_its_length(piece: str) -> None:
    values = {KEY: ("string", piece * (400_000 // len(piece)))}
    with at_most(1):
        list(programs_in(values))
