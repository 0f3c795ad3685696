"""Code that the Hugging Face hub's libraries import or run because a configuration in a folder says so.

    *.json                      transformers: "auto_map": {"AutoModel": "module.Class", "AutoTokenizer": [slow, fast]},
                                a class in a Python file beside it, or with OWNER/NAME-- in front, in another
                                repository; "custom_pipelines": {TASK: {"impl": "module.Class"}}. diffusers has such a
                                map too. Only with trust_remote_code=True
                                "attn_implementation": "OWNER/NAME": a kernel, fetched from the hub and imported
    custom_generate/generate.py transformers: only with custom_generate=… and trust_remote_code=True
    model_index.json            diffusers: "_class_name": [module, class], if module.py is beside it; COMPONENT:
                                [module, class], if COMPONENT/module.py exists; and None.py, without being named
    modules.json                sentence-transformers: [{"type": "module.Class", …}, …]
                                (`formats.sentence_transformers`)
    router_config.json          … {"types": {NAME: "module.Class"}}
    config.json                 … {"activation_function": "module.Class"} of a Dense layer; of a cross-encoder
                                {"sbert_ce_default_activation_function": …} and {"sentence_transformers":
                                {"activation_fn": …}}; each is called without arguments
                                mlx-lm: {"model_file": "module.py"}, which is run
                                vLLM before 0.11.1: {"vision_config": {"auto_map": …}}, for one type of model
    adapter_config.json         PEFT: "auto_mapping": {"parent_library": module, "base_model_class": Class}, and
                                "megatron_core": module, which are imported
    pipeline.py                 diffusers: only with custom_pipeline=FOLDER
    handler.py                  Hugging Face Inference Endpoints, when the folder is deployed to one
    hubconf.py                  torch.hub.load(FOLDER, …, source="local")

A library that asks for consent today may not have asked in the past. diffusers 0.35 and sentence-transformers before
6.0 run the code of a local folder without asking, so such code counts as running without consent. transformers has
always asked, mlx-lm since 0.32. transformers 4.57 fetched kernels from any account, 5.24 only from kernels-community.

Sources: transformers/dynamic_module_utils.py, integrations/hub_kernels.py;
diffusers/pipelines/pipeline_loading_utils.py; sentence_transformers/util/misc.py, base/modules/dense.py,
cross_encoder/model.py; peft/auto.py, tuners/lora/model.py; mlx_lm/utils.py (`load_model`).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ckptconv.core.metadata import MetaNode, Opaque, objects_in, spell_path
from ckptconv.core.notes import Program
from ckptconv.formats.beside.files import names_of
from ckptconv.formats.code.jinja import program_in
from ckptconv.formats.sentence_transformers import MODULES, module_classes

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[object, ...]
Object = dict[str, MetaNode]

TRUST = "trust_remote_code=True"

_TRANSFORMERS, _DIFFUSERS, _SENTENCES, _PEFT = "transformers", "diffusers", "sentence-transformers", "PEFT"
_MLX, _MODULES = "mlx-lm", (".py", ".pyc", ".so", ".pyd")
"""…and the suffixes of files that Python imports."""

_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
_VERIFIED = "kernels-community/"
"""The account whose kernels every release of transformers fetches."""

_NESTS_CODE = "Llama_Nemotron_Nano_VL"
"""The model type for which vLLM before 0.11.1 fetches and runs the code that its vision_config names."""

_OWN_PARENTS = ("transformers", "transformers_modules", "diffusers", "peft", "torch", "timm", "sentence_transformers")

_SCRIPTS = {
    "custom_generate/generate.py": (_TRANSFORMERS, f"custom_generate=… and {TRUST}"),
    "handler.py": ("Inference Endpoints", "it is deployed to one"),
    "hubconf.py": ("torch.hub", "torch.hub.load(FOLDER, …, source='local')"),
}  # fmt: skip
"""Python files that are run because of their name, anywhere in the folder: by whom, and under which condition."""

_PIPELINE_SCRIPTS = {"None.py": "", "pipeline.py": "custom_pipeline=FOLDER"}
"""Those that diffusers runs if they are beside a model_index.json, and under which condition."""

_INDEX = "model_index.json"


def is_configuration(path: str) -> bool:
    """Whether a library reads a JSON file with this name. Much other JSON in a folder is not read, such as a trainer's
    log.
    """
    name = path.rpartition("/")[2].lower()
    return "config" in name or "template" in name or name in _BY_FILE_NAME


def programs_in(path: str, document: MetaNode, files: frozenset[str]) -> Iterator[Program]:
    """The programs that a configuration names. `path` is its path in the folder that holds `files`."""
    home, _, name = path.rpartition("/")
    for where, node in objects_in(document):
        for key, program in _object_programs(node):
            yield _located(program, path, (*where, *key))
    by_name = _BY_FILE_NAME.get(name.lower())
    if by_name is not None:
        for key, program in by_name(document, f"{home}/" if home else "", files):
            yield _located(program, path, key)


def scripts_in(files: frozenset[str]) -> Iterator[Program]:
    """The Python files that are run because of their name."""
    for path in files:
        home, _, name = path.rpartition("/")
        for end, (by, only_if) in _SCRIPTS.items():
            if path == end or path.endswith(f"/{end}"):
                yield Program(path, Opaque(end, "called"), by, only_if)
        if name in _PIPELINE_SCRIPTS and f"{home}/{_INDEX}".lstrip("/") in files:
            yield Program(path, Opaque(name, "called"), _DIFFUSERS, _PIPELINE_SCRIPTS[name])


def _located(program: Program, path: str, key: Path) -> Program:
    """The program with the place that names it: a key in a file."""
    return Program(f"{path}: {spell_path(key)}", program.node, program.by, program.only_if)


def _called(name: str, by: str, only_if: str = "") -> Program:
    return Program("", Opaque(name, "called"), by, only_if)


def _texts(node: MetaNode, path: Path) -> Iterator[tuple[Path, str]]:
    """The strings in a value, which is a string, a list of strings or an object with strings as values."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, (list, dict)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(child, str):
                yield (*path, key), child


def _object_programs(node: Object) -> Iterator[tuple[Path, Program]]:
    """What any object in any configuration may name."""
    auto_map, pipelines = node.get("auto_map"), node.get("custom_pipelines")
    if isinstance(auto_map, dict):
        for key, value in auto_map.items():
            for where, name in _texts(value, ("auto_map", key)):
                yield where, _called(name, _TRANSFORMERS, TRUST)
    if isinstance(pipelines, dict):
        for key, value in pipelines.items():
            if isinstance(value, dict) and isinstance(value.get("impl"), str):
                yield ("custom_pipelines", key, "impl"), _called(str(value["impl"]), _TRANSFORMERS, TRUST)
    for key in _ATTENTION:
        for where, name in _texts(node.get(key), (key,)):
            if "/" in name and not name.rpartition("|")[2].strip().startswith(_VERIFIED):
                yield where, _called(name, f"{_TRANSFORMERS} and kernels")
    yield from _template_programs(node)


def _template_programs(node: Object) -> Iterator[tuple[Path, Program]]:
    """Chat templates: the only one of a tokenizer, or one of several, which have names."""
    templates = [*_texts(node.get("chat_template"), ("chat_template",))]
    if isinstance(node.get("name"), str):
        templates += _texts(node.get("template"), ("template",))
    for where, text in templates:
        if (program := program_in("", text)) is not None:
            yield where, program


def _pipeline_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        match value:
            case [str() as module, str() as name, *_]:
                folder = home if key == "_class_name" else f"{home}{key}/"
                if "/" in module or "\\" in module or f"{folder}{module}.py" in files:
                    yield (key,), _called(f"{module}.{name}", _DIFFUSERS)
                elif "." in module and module.partition(".")[0] not in (*_OWN_PARENTS, "onnxruntime", "optimum"):
                    yield (key,), Program("", Opaque(f"{module}.{name}", "object"), _DIFFUSERS)


def _module_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    for number, name in module_classes(document):
        yield from _class_programs(name, (number, "type"), files)


def _router_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if isinstance(document, dict):
        yield from _class_programs(document.get("types"), ("types",), files)


def _tokenizer_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if isinstance(document, dict):
        yield from _class_programs(document.get("tokenizer_class"), ("tokenizer_class",), files)


def _class_programs(node: MetaNode, path: Path, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    """Classes of modules, from a Python file in the folder or in another repository, or from an installed package."""
    for where, name in _texts(node, path):
        if not name.startswith("sentence_transformers."):
            file = f"{name.rpartition('.')[0]}.py"
            runs = "--" in name or ".." in name or file in names_of(files)
            yield where, Program("", Opaque(name, "called" if runs else "object"), _SENTENCES)


def _activation_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    """Activation functions that are named by an import path; transformers names its own by a single word."""
    if not isinstance(document, dict):
        return
    inner = document.get("sentence_transformers")
    activations = {
        ("activation_function",): document.get("activation_function"),
        ("sbert_ce_default_activation_function",): document.get("sbert_ce_default_activation_function"),
        ("sentence_transformers", "activation_fn"): inner.get("activation_fn") if isinstance(inner, dict) else None,
    }
    for where, name in activations.items():
        if isinstance(name, str) and "." in name and not name.startswith(("torch.nn.", "sentence_transformers.")):
            yield where, _called(name, _SENTENCES)


def _config_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    yield from _activation_programs(document, home, files)
    if isinstance(document, dict) and document.get("model_type") == _NESTS_CODE:
        inner = document.get("vision_config")
        for where, name in _texts(inner.get("auto_map") if isinstance(inner, dict) else None, ("auto_map",)):
            yield ("vision_config", *where), _called(name, "vLLM")
    file = document.get("model_file") if isinstance(document, dict) else None
    if isinstance(file, str) and PurePosixPath(file).name.endswith(_MODULES):  # also spelled "module.py/."
        yield ("model_file",), _called(file, _MLX)


def _adapter_programs(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if not isinstance(document, dict):
        return
    mapping = document.get("auto_mapping")
    parent = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if isinstance(mapping, dict) and isinstance(parent, str) and parent.partition(".")[0] not in _OWN_PARENTS:
        name = f"{parent}.{mapping.get('base_model_class')}"
        yield ("auto_mapping", "parent_library"), Program("", Opaque(name, "object"), _PEFT)
    core = document.get("megatron_core")
    if isinstance(core, str) and core.partition(".")[0] != "megatron":
        yield ("megatron_core",), Program("", Opaque(core, "object"), _PEFT)


_BY_FILE_NAME = {
    _INDEX: _pipeline_programs, "modular_model_index.json": _pipeline_programs, MODULES: _module_programs,
    "router_config.json": _router_programs, "wordembedding_config.json": _tokenizer_programs, "config.json":
    _config_programs, "adapter_config.json": _adapter_programs,
}  # fmt: skip
"""What else a configuration with one of these names may name."""
