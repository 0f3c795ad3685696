"""Plain values from pickled OmegaConf settings, which Lightning and hydra put into checkpoints.

The pickled state of a container is ``_content``: a dict or list of nodes, None, or the text of an interpolation such as
``${size}``. A leaf has its value in ``_val``; each node has its ``_parent``. Source: omegaconf/basecontainer.py
(`__getstate__`), omegaconf/nodes.py.
"""

from __future__ import annotations

from ckptconv.core.metadata import MetaNode, Opaque

OMEGACONF = "omegaconf."
"""The start of the names of OmegaConf's classes."""

_TUPLE = "omegaconf.tupleconfig.TupleConfig"
_CONTAINERS = ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", _TUPLE)
_LEAVES = "omegaconf.nodes."
_UNION = "omegaconf.base.UnionNode"


def is_settings(node: Opaque) -> bool:
    """Whether the object is an OmegaConf container with the expected state."""
    if node.name not in _CONTAINERS or not isinstance(node.state, dict):
        return False
    content = node.state.get("_content", node)
    return content is None or isinstance(content, (dict, list, str))


def plain_settings(node: Opaque) -> MetaNode:
    """The settings as dicts, lists and values; interpolations stay texts. Expects `is_settings`."""
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
