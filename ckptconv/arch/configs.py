"""Reads a spec's table ``[config]``: how a ``config.json`` of transformers or diffusers states the params.

    model_type    = ["llama"]              values of these keys that mean the spec; also of diffusers' _class_name
    architectures = ["LlamaForCausalLM"]
    [config.params]
    width  = "hidden_size"                 an expression over the configuration's keys; nested keys have dots
    heads  = ["n_head", "12"]              the first that has a value
    depths = { for = "level", to = "len(types)", each = "2 if types[level] == 'deep' else 1" }
    [config.defaults]
    n_head = 12                            what an absent key means, or one that is null

Beside `model_type`, ``when = "not is_hybrid"`` (or a list of conditions) leaves out configurations of the same class
with an option that the spec lacks; a condition over an absent key leaves out none.

``each`` may be several expressions. They give numbers, or lists that are joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.expressions import is_name
from ckptconv.arch.spec import ConfigMap, ConfigParam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.rows import Rows, Toml


def read_config(rows: Rows, value: Toml) -> ConfigMap:
    """The table's content. Mistakes are refused by `rows`, with line and key."""
    row = rows.table(value, ["config"], ("model_type", "architectures", "params", "defaults", "when"))
    params = rows.table(row.get("params", {}), ["config", "params"])
    return ConfigMap(
        rows.texts(row.get("model_type", []), ["config", "model_type"]),
        rows.texts(row.get("architectures", []), ["config", "architectures"]),
        {name: _config_param(rows, each, ("config", "params", name)) for name, each in params.items()},
        rows.table(row.get("defaults", {}), ["config", "defaults"]),
        _formulas(rows, row.get("when", []), ("config", "when")),
    )


def _config_param(rows: Rows, value: Toml, path: Sequence[str]) -> ConfigParam:
    if not isinstance(value, dict):
        return ConfigParam(_formulas(rows, value, path))
    row = rows.table(value, path, ("for", "to", "each"))
    if row.keys() != {"for", "to", "each"}:
        rows.fail(path, "a loop over a configuration needs for, to and each")
    loop = rows.text(row["for"], path)
    if not is_name(loop):
        rows.fail(path, "expected a name of letters, digits and '_', and no word of the language")
    return ConfigParam(_formulas(rows, row["each"], path), loop, rows.formula(row["to"], path))


def _formulas(rows: Rows, value: Toml, path: Sequence[str]) -> tuple[Formula, ...]:
    return tuple(rows.formula(item, path) for item in (value if isinstance(value, list) else [value]))
