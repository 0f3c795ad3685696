"""Chat templates that reach for Python's internals: what a plain Jinja does with them, its sandbox refuses."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from pathlib import Path

ATTACKS = {
    "from a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "from a function": "{% set x = cycler.__init__.__globals__.os %}{{ x.getcwd() }}",
    "as an item": "{{ cycler['__init__']['__globals__'] }}",
    "by a filter": "{{ cycler|attr('__init__')|attr('__globals__') }}",
    "in pieces": "{{ cycler|attr('_' ~ '_init_' ~ '_')|attr('_' ~ '_globals_' ~ '_') }}",
    "spelled out": r"{{ cycler['\x5f\x5finit\x5f\x5f']['\x5f\x5fglobals\x5f\x5f'] }}",
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
