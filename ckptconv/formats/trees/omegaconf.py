"""OmegaConf's trees of settings, which Lightning and hydra pickle into checkpoints, as the plain values in them.

Their pickled state is ``_content``, a dict or list of nodes (or None, or the text of an interpolation such as
``${size}``), each leaf with its ``_val``; every node has its ``_parent``. Source: omegaconf/basecontainer.py
(`__getstate__`), omegaconf/nodes.py.
"""

from __future__ import annotations

from ckptconv.core.metadata import MetaNode, Opaque

OMEGACONF = "omegaconf."
"""How the names of its classes begin."""

_TUPLE = "omegaconf.tupleconfig.TupleConfig"
_CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", _TUPLE)
_LEAVES = "omegaconf.nodes."
_UNION = "omegaconf.base.UnionNode"


def is_settings(node: Opaque) -> bool:
    """Whether it is such a tree, and nothing else is in its place."""
    if node.name not in _CONTAINERS or not isinstance(node.state, dict):
        return False
    content = node.state.get("_content", node)
    return content is None or isinstance(content, (dict, list, str))


def plain_settings(node: Opaque) -> MetaNode:
    """The settings as dicts, lists and values, interpolations as they are written. Expects `is_settings`."""
    assert isinstance(node.state, dict)
    content = node.state["_content"]
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        values = [_plain(value) for value in content]
        return tuple(values) if node.name == _TUPLE else values
    return content


def _plain(node: MetaNode) -> MetaNode:
    if not isinstance(node, Opaque):
        return node
    if is_settings(node):
        return plain_settings(node)
    state = node.state if isinstance(node.state, dict) else {}
    if node.name == _UNION and isinstance(state.get("_content"), Opaque):
        return _plain(state["_content"])
    return state.get("_val", node) if node.name.startswith(_LEAVES) else node
