"""Texts of YAML that libraries evaluate as Python, or that have them run files of the folder; here they stay texts.

    backbone: [[-1, 1, Conv, [64]], …]      YOLOv5 and its kin (v7, v9): each module and each of its arguments
    Preprocess: [{type: Resize, …}, …]      PaddleDetection's infer_cfg.yml: the type, by ``eval(type)(**rest)``
    transform_ops: [{ResizeImage: …}, …]    PaddleOCR and PaddleClas: the name, likewise
    policy_kwargs: "dict(net_arch=[64])"    rl_zoo3's config.yml; so are normalize, env_wrapper's and others
    device: $torch.device('cpu')            MONAI's bundles: each text that begins with "$" (`formats.code.monai`)
    trust_remote_code: true                 FunASR's config.yaml, with remote_code, a file that it imports

Calls need brackets behind a name or a bracket: which names stand there is all that is asked, wherever in the document
they are. Layers, dicts and the like call nothing else, and neither does prose: a word, and words or numbers in brackets
behind it, as in "images (ImageNet statistics)". As Python these are names that nothing has.

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
_PROSE = re.compile(r"[\w\s,.;:%+/=<>~×–—-]{1,200}+\)")
_RUNS = re.compile(
    r"_\w*|breakpoint|compile|copyright|credits|(?:del|get|has|set)attr|eval|exec|exit|help|input|open|quit|.*\..*"
)
"""Names that do something whatever they are called with, and attributes."""

_COMMENT = re.compile(r"""^(?P<before>[^#"'\n]*+)(?<![^\s])#[^\n]*+""", re.MULTILINE)

_MOST_TOLD, _MOST, _BEFORE = 20, 10_000, 200
"""Calls of one document that are told, brackets and expressions that are looked at, and characters before a bracket."""

_EVALUATED = (
    ("YOLOv5", ("backbone", "head")), ("PaddleDetection", ("Preprocess",)), ("PaddleOCR", ("transform_ops",)),
    ("PaddleOCR", ("transforms", "PostProcess")),
)  # fmt: skip
"""Who evaluates texts of a document that has all of these keys."""

_COLON = re.compile(r"""["']?\s*+(?:#[^\n]*+\s*+)?+:""")
_AGENT = re.compile(r"\b(?:policy_kwargs|normalize|env_wrapper|n_timesteps|replay_buffer_kwargs|callback)\b")
_TEXT = re.compile(r"""(?<![^\s"'\[{,])\$(?!\{)([^\n]*)""")
"""What may be an expression of MONAI's, to the end of its line."""


def programs_in(path: str, text: str) -> Iterator[Program]:
    """What a file of YAML has of that."""
    text = undisguised(text)
    lines = Lines(path, text)
    for by, keys in _EVALUATED:
        if all(_has_key(text, key) for key in keys):
            yield from _calls(text, lines, by)
    if path.rpartition("/")[2].lower() in ("config.yml", "config.yaml") and _AGENT.search(text):
        yield from _calls(text, lines, "rl_zoo3")
    yield from _of_monai(text, lines)
    yield from _of_funasr(text, lines)


def _has_key(text: str, word: str) -> bool:
    """Whether a word stands where a key of YAML may be: before a colon, or behind an anchor, for an alias."""
    for count, found in enumerate(re.finditer(rf"\b{word}\b", text)):
        before = text[max(0, found.start() - _BEFORE) : found.start()].rpartition("\n")[2]
        after = text[found.end() : found.end() + 2 * _BEFORE]
        if count > _MOST or "&" in before or _COLON.match(after):
            return True
    return False


def _calls(text: str, lines: Lines, by: str) -> Iterator[Program]:
    """What is called anywhere, but in comments, and makes more than a layer or a container."""
    code = _COMMENT.sub(lambda found: found["before"] + " " * (len(found[0]) - len(found["before"])), text)
    told = 0
    for count, bracket in enumerate(re.finditer(r"\(", code)):
        before = code[max(0, bracket.start() - _BEFORE) : bracket.start()]
        called = _CALLED.search(before)
        if called is None and before.strip():
            continue
        if count > _MOST or not (called and called["name"] and _is_harmless(called["name"], code, bracket.end())):
            told += 1
            start = code.rfind("\n", 0, bracket.start()) + 1
            line = code[max(start, bracket.start() - _BEFORE) : bracket.start() + _BEFORE].partition("\n")[0].strip()
            yield Program(lines.at(bracket.start()), Opaque("builtins.eval", "called", (line,)), by)
        if told == _MOST_TOLD or count > _MOST:
            return


def _is_harmless(name: str, code: str, inside: int) -> bool:
    """Whether a name that is called makes a layer or a container, or is a word before others in brackets."""
    return bool(_HARMLESS.fullmatch(name) or (not _RUNS.fullmatch(name) and _PROSE.match(code, inside)))


def _of_monai(text: str, lines: Lines) -> Iterator[Program]:
    told = 0
    for count, found in enumerate(_TEXT.finditer(text)):
        said = found[0].rstrip().rstrip(",")
        spellings = {said, said.rstrip("\"'"), said.rstrip("\"'}] "), said.partition(" #")[0].rstrip("\"' ")}
        if count > monai.MOST or any(map(monai.runs, spellings)):
            told += 1
            yield Program(lines.at(found.start()), Opaque("builtins.eval", "called", (said[:_BEFORE],)), "MONAI")
        if told == _MOST_TOLD or count > monai.MOST:
            return


def _of_funasr(text: str, lines: Lines) -> Iterator[Program]:
    if "trust_remote_code" not in text or "remote_code" not in text.replace("trust_remote_code", ""):
        return
    scalars = Scalars(text)
    if any(value.lower() in ("true", "yes", "on", HIDDEN) for _, value, _ in scalars.values_of("trust_remote_code")):
        for said, at in islice(scalars.texts_of("remote_code"), _MOST_TOLD):
            yield Program(lines.at(at), Opaque("importlib.import_module", "called", (said,)), "FunASR")
