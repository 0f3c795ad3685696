"""Strings in a checkpoint's metadata that a library passes to ``eval`` while it builds the model.

    fairseq     in its configuration ("args", "cfg"): conv_feature_layers = "[(512, 10, 5)] + [(512, 3, 2)] * 4", and
                other lists of layers, filters and optimizer settings
    YOLOv5      in an exported model's metadata: names = "{0: 'person'}"; older Ultralytics releases too, also imgsz and
                kpt_shape, and in metadata.yaml

What they write are numbers, strings and containers of these, added and repeated. A string that calls something is
reported. Where another library uses such a key for something else, the value is a word or a path, not a call.

Sources: fairseq/models/wav2vec/wav2vec2.py, models/hubert/hubert.py, models/fconv.py, utils.py (`eval_str_list`);
yolov5/models/common.py (`DetectMultiBackend`); ultralytics/nn/autobackend.py.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, spell_path, walk
from ckptconv.core.notes import Program
from ckptconv.errors import LimitError
from ckptconv.formats.code.python import parse_python

if TYPE_CHECKING:
    from collections.abc import Iterator

_FAIRSEQ = frozenset([
    "adafactor_eps", "adam_betas", "adamax_betas", "character_filters", "conv_aggregator_layers", "conv_dec_config",
    "conv_enc_config", "conv_feature_layers", "decoder_attention", "decoder_layers", "downsample", "encoder_attention",
    "encoder_layers", "gated_attention", "lamb_betas", "lr", "project_input", "self_attention",
    "transformer_context", "transformer_dec_config", "transformer_enc_config", "transformer_sampling", "update_freq",
    "vggblock_enc_config", "wer_args",
])  # fmt: skip
YOLO = frozenset(["imgsz", "kpt_shape", "names"])

_CALL = re.compile(r"""[\w\])}"']\s*\(""")


def programs_in(root: MetaNode) -> Iterator[Program]:
    """The evaluated strings in a metadata tree that call something."""
    for path, node in walk(root):
        key = path[-1] if path else None
        if isinstance(node, str) and isinstance(key, str) and key in _FAIRSEQ | YOLO and runs(node):
            by = "YOLOv5" if key in YOLO else "fairseq"
            yield Program(spell_path(path), Opaque("builtins.eval", "called", (node,)), by)


def runs(text: str) -> bool:
    """Whether evaluating the text would call anything."""
    if not _CALL.search(text):
        return False
    try:
        tree = parse_python(text.strip())
    except LimitError:
        return True
    return tree is not None and any(isinstance(node, ast.Call) for node in ast.walk(tree))
