"""Strings in YAML that libraries evaluate as Python, or that make them run files of the folder. Here they stay strings.

    backbone: [[-1, 1, Conv, [64]], …]      YOLOv5, v7, v9: each module and each of its arguments
    Preprocess: [{type: Resize, …}, …]      PaddleDetection's infer_cfg.yml: the type, as ``eval(type)(**rest)``
    transform_ops: [{ResizeImage: …}, …]    PaddleOCR and PaddleClas: the name, likewise
    policy_kwargs: "dict(net_arch=[64])"    rl_zoo3's config.yml; also normalize, env_wrapper and others
    device: $torch.device('cpu')            MONAI bundles: each string that begins with "$" (`formats.code.monai`)
    trust_remote_code: true                 FunASR's config.yaml, with remote_code, a file that it imports

A call needs an opening parenthesis behind a name or a closing bracket, so only the names in that place are checked,
anywhere in the document. Constructors of layers, dicts and the like are harmless, and so is prose: a word followed by
words or numbers in parentheses, as in "images (ImageNet statistics)", which as Python would be undefined names.

Sources: yolov5/models/yolo.py (`parse_model`); PaddleDetection, deploy/python/infer.py; PaddleOCR, ppocr/data/imaug
(`create_operators`); rl_zoo3/utils.py (`get_saved_hyperparams`), exp_manager.py; monai/bundle/config_item.py;
funasr/download/download_model_from_hub.py.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from ckptconv.core.metadata import Opaque
from ckptconv.core.notes import Program
from ckptconv.formats.beside.lines import Lines
from ckptconv.formats.code import monai
from ckptconv.formats.code.yaml_escapes import undisguised
from ckptconv.formats.code.yaml_scalars import HIDDEN, Scalars

if TYPE_CHECKING:
    from collections.abc import Iterator

_CALLED = re.compile(r"""(?:(?P<name>[\w.]+)|[\])}"'])\s*$""")
_HARMLESS = re.compile(r"(?:dict|list|tuple|set|float|int|str|len|range|min|max|round|abs|(?:torch\.)?nn\.[A-Z]\w*)")
_PROSE_ARGUMENTS = re.compile(r"[\w\s,.;:%+/=<>~×–—-]{1,200}+\)")
_NEVER_HARMLESS = re.compile(
    r"_\w*|breakpoint|compile|copyright|credits|(?:del|get|has|set)attr|eval|exec|exit|help|input|open|quit|.*\..*"
)
"""Names that do something whatever they are called with, and any attribute."""

_COMMENT = re.compile(r"""^(?P<before>[^#"'\n]*+)(?<![^\s])#[^\n]*+""", re.MULTILINE)

_MAX_REPORTED, _MAX_CHECKED, _BEFORE = 20, 10_000, 200
"""Calls reported for a document; parentheses and keys checked; characters looked at before one."""

_EVALUATED = (
    ("YOLOv5", ("backbone", "head")), ("PaddleDetection", ("Preprocess",)), ("PaddleOCR", ("transform_ops",)),
    ("PaddleOCR", ("transforms", "PostProcess")),
)  # fmt: skip
"""Libraries that evaluate strings of a document, and the keys that together show that it is theirs."""

_COLON = re.compile(r"""["']?\s*+(?:#[^\n]*+\s*+)?+:""")
_RL_KEYS = re.compile(r"\b(?:policy_kwargs|normalize|env_wrapper|n_timesteps|replay_buffer_kwargs|callback)\b")
_DOLLAR = re.compile(r"""(?<![^\s"'\[{,])\$(?!\{)([^\n]*)""")
"""A possible MONAI expression, to the end of its line."""


def programs_in(path: str, text: str) -> Iterator[Program]:
    """The programs that a YAML file runs."""
    text = undisguised(text)
    lines = Lines(path, text)
    for by, keys in _EVALUATED:
        if all(_has_key(text, key) for key in keys):
            yield from _calls(text, lines, by)
    if path.rpartition("/")[2].lower() in ("config.yml", "config.yaml") and _RL_KEYS.search(text):
        yield from _calls(text, lines, "rl_zoo3")
    yield from _monai_programs(text, lines)
    yield from _funasr_programs(text, lines)


def _has_key(text: str, word: str) -> bool:
    """Whether a word stands where a YAML key may be: before a colon, or behind an anchor that an alias repeats."""
    for count, match in enumerate(re.finditer(rf"\b{word}\b", text)):
        before = text[max(0, match.start() - _BEFORE) : match.start()].rpartition("\n")[2]
        after = text[match.end() : match.end() + 2 * _BEFORE]
        if count > _MAX_CHECKED or "&" in before or _COLON.match(after):
            return True
    return False


def _calls(text: str, lines: Lines, by: str) -> Iterator[Program]:
    """Calls anywhere outside comments, except those that only make a layer or a container."""
    code = _COMMENT.sub(lambda match: match["before"] + " " * (len(match[0]) - len(match["before"])), text)
    reported = 0
    for count, bracket in enumerate(re.finditer(r"\(", code)):
        before = code[max(0, bracket.start() - _BEFORE) : bracket.start()]
        called = _CALLED.search(before)
        if called is None and before.strip():
            continue
        if count > _MAX_CHECKED or not (
            called and called["name"] and _is_harmless(called["name"], code, bracket.end())
        ):
            reported += 1
            start = code.rfind("\n", 0, bracket.start()) + 1
            line = code[max(start, bracket.start() - _BEFORE) : bracket.start() + _BEFORE].partition("\n")[0].strip()
            yield Program(lines.at(bracket.start()), Opaque("builtins.eval", "called", (line,)), by)
        if reported == _MAX_REPORTED or count > _MAX_CHECKED:
            return


def _is_harmless(name: str, code: str, inside: int) -> bool:
    """Whether a called name makes a layer or a container, or is a word of prose before others in parentheses."""
    return bool(
        _HARMLESS.fullmatch(name) or (not _NEVER_HARMLESS.fullmatch(name) and _PROSE_ARGUMENTS.match(code, inside))
    )


def _monai_programs(text: str, lines: Lines) -> Iterator[Program]:
    reported = 0
    for count, match in enumerate(_DOLLAR.finditer(text)):
        line = match[0].rstrip().rstrip(",")
        # Where the expression ends on the line depends on YAML: try it with and without what may follow.
        spellings = {line, line.rstrip("\"'"), line.rstrip("\"'}] "), line.partition(" #")[0].rstrip("\"' ")}
        if count > monai.MAX_EXPRESSIONS or any(map(monai.runs, spellings)):
            reported += 1
            yield Program(lines.at(match.start()), Opaque("builtins.eval", "called", (line[:_BEFORE],)), "MONAI")
        if reported == _MAX_REPORTED or count > monai.MAX_EXPRESSIONS:
            return


def _funasr_programs(text: str, lines: Lines) -> Iterator[Program]:
    if "trust_remote_code" not in text or "remote_code" not in text.replace("trust_remote_code", ""):
        return
    scalars = Scalars(text)
    if any(value.lower() in ("true", "yes", "on", HIDDEN) for _, value, _ in scalars.values_of("trust_remote_code")):
        for file, at in islice(scalars.texts_of("remote_code"), _MAX_REPORTED):
            yield Program(lines.at(at), Opaque("importlib.import_module", "called", (file,)), "FunASR")
