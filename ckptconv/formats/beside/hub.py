"""What the libraries of the Hugging Face hub import or run because a configuration in a folder says so.

    *.json                      transformers: "auto_map": {"AutoModel": "module.Class", "AutoTokenizer": [slow, fast]},
                                the class of a Python file beside it, or with OWNER/NAME-- before it of another
                                repository; "custom_pipelines": {TASK: {"impl": "module.Class"}}. diffusers has such a
                                map as well. Only with trust_remote_code=True
                                "attn_implementation": "OWNER/NAME": a kernel, fetched from the hub and imported
    custom_generate/generate.py transformers: only with custom_generate=… and trust_remote_code=True
    model_index.json            diffusers: "_class_name": [module, class], where module.py is beside it; COMPONENT:
                                [module, class], where COMPONENT/module.py is there; and None.py, which needs no mention
    modules.json                sentence-transformers: [{"type": "module.Class", …}, …] (`formats.modules`)
    router_config.json          … {"types": {NAME: "module.Class"}}
    config.json                 … {"activation_function": "module.Class"} of a Dense layer, of a cross-encoder
                                {"sbert_ce_default_activation_function": …} and {"sentence_transformers":
                                {"activation_fn": …}}, each called without arguments
                                mlx-lm: {"model_file": "module.py"}, which is run
                                vLLM before 0.11.1: {"vision_config": {"auto_map": …}} of one type of model
    adapter_config.json         PEFT: "auto_mapping": {"parent_library": module, "base_model_class": Class}, and
                                "megatron_core": module, which are imported
    pipeline.py                 diffusers: only with custom_pipeline=FOLDER
    handler.py                  Inference Endpoints, which serve what is deployed to them
    hubconf.py                  torch.hub.load(FOLDER, …, source="local")

A library that asks for consent today may not have asked before: diffusers 0.35 and sentence-transformers before 6.0 run
the code of a folder that is given as a path, so that this counts as what runs without consent. transformers has always
asked, mlx-lm from 0.32 on. Kernels of anyone were fetched by transformers 4.57, of kernels-community alone by 5.24.

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
from ckptconv.formats.modules import MODULES, classes_in

if TYPE_CHECKING:
    from collections.abc import Iterator

Path = tuple[object, ...]
Object = dict[str, MetaNode]

TRUST = "trust_remote_code=True"

_TRANSFORMERS, _DIFFUSERS, _SENTENCES, _PEFT = "transformers", "diffusers", "sentence-transformers", "PEFT"
_MLX, _MODULES = "mlx-lm", (".py", ".pyc", ".so", ".pyd")
"""…and the files of which Python makes a module."""

_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
_VERIFIED = "kernels-community/"
"""The account whose kernels every release of transformers' fetches."""

_NESTS_CODE = "Llama_Nemotron_Nano_VL"
"""The type of model whose configuration makes vLLM before 0.11.1 fetch and run what the part for pictures names."""

_OWN_PARENTS = ("transformers", "transformers_modules", "diffusers", "peft", "torch", "timm", "sentence_transformers")

_SCRIPTS = {
    "custom_generate/generate.py": (_TRANSFORMERS, f"custom_generate=… and {TRUST}"),
    "handler.py": ("Inference Endpoints", "it is deployed to one"),
    "hubconf.py": ("torch.hub", "torch.hub.load(FOLDER, …, source='local')"),
}  # fmt: skip
"""Python files that are run by what they are called, anywhere in the folder: by whom, and when."""

_OF_PIPELINES = {"None.py": "", "pipeline.py": "custom_pipeline=FOLDER"}
"""Those beside a model_index.json."""

_INDEX = "model_index.json"


def is_configuration(path: str) -> bool:
    """Whether a library reads a file of that name, and not only who made it: a trainer's log is JSON as well."""
    name = path.rpartition("/")[2].lower()
    return "config" in name or "template" in name or name in _OF_FILES


def programs_in(path: str, document: MetaNode, files: frozenset[str]) -> Iterator[Program]:
    """What a configuration says of that. `path`: where it is in the folder that holds `files`."""
    home, _, name = path.rpartition("/")
    for where, node in objects_in(document):
        for key, found in _of_object(node):
            yield _placed(path, (*where, *key), found)
    for key, found in _OF_FILES.get(name.lower(), _nothing)(document, f"{home}/" if home else "", files):
        yield _placed(path, key, found)


def scripts_in(files: frozenset[str]) -> Iterator[Program]:
    """The Python files that are run by what they are called."""
    for path in files:
        home, _, name = path.rpartition("/")
        for end, (by, only_if) in _SCRIPTS.items():
            if path == end or path.endswith(f"/{end}"):
                yield Program(path, Opaque(end, "called"), by, only_if)
        if name in _OF_PIPELINES and f"{home}/{_INDEX}".lstrip("/") in files:
            yield Program(path, Opaque(name, "called"), _DIFFUSERS, _OF_PIPELINES[name])


def _placed(path: str, key: Path, found: Program) -> Program:
    return Program(f"{path}: {spell_path(key)}", found.node, found.by, found.only_if)


def _called(name: str, by: str, only_if: str = "") -> Program:
    return Program("", Opaque(name, "called"), by, only_if)


def _texts(node: MetaNode, path: Path) -> Iterator[tuple[Path, str]]:
    """The texts under a key: one, those of a list, or those of an object."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, (list, dict)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(child, str):
                yield (*path, key), child


def _of_object(node: Object) -> Iterator[tuple[Path, Program]]:
    """What any object of any configuration may say."""
    mapped = node.get("auto_map")
    for key, value in mapped.items() if isinstance(mapped, dict) else ():
        for where, name in _texts(value, ("auto_map", key)):
            yield where, _called(name, _TRANSFORMERS, TRUST)
    pipelines = node.get("custom_pipelines")
    for key, value in pipelines.items() if isinstance(pipelines, dict) else ():
        if isinstance(value, dict) and isinstance(value.get("impl"), str):
            yield ("custom_pipelines", key, "impl"), _called(str(value["impl"]), _TRANSFORMERS, TRUST)
    for key in _ATTENTION:
        for where, name in _texts(node.get(key), (key,)):
            if "/" in name and not name.rpartition("|")[2].strip().startswith(_VERIFIED):
                yield where, _called(name, f"{_TRANSFORMERS} and kernels")
    for where, text in _texts(node.get("chat_template"), ("chat_template",)):
        if (found := program_in("", text)) is not None:
            yield where, found
    if isinstance(node.get("name"), str):
        for where, text in _texts(node.get("template"), ("template",)):  # one of several chat templates
            if (found := program_in("", text)) is not None:
                yield where, found


def _nothing(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    return iter(())


def _of_pipeline(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    for key, value in document.items() if isinstance(document, dict) else ():
        match value:
            case [str() as module, str() as name, *_]:
                folder = home if key == "_class_name" else f"{home}{key}/"
                if "/" in module or "\\" in module or f"{folder}{module}.py" in files:
                    yield (key,), _called(f"{module}.{name}", _DIFFUSERS)
                elif "." in module and module.partition(".")[0] not in (*_OWN_PARENTS, "onnxruntime", "optimum"):
                    yield (key,), Program("", Opaque(f"{module}.{name}", "object"), _DIFFUSERS)


def _of_modules(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    for number, name in classes_in(document):
        yield from _of_classes(name, (number, "type"), files)


def _of_router(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if isinstance(document, dict):
        yield from _of_classes(document.get("types"), ("types",), files)


def _of_words(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    if isinstance(document, dict):
        yield from _of_classes(document.get("tokenizer_class"), ("tokenizer_class",), files)


def _of_classes(node: MetaNode, path: Path, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    """Classes of modules: of a Python file in the folder, of one in another repository, or of an installed package."""
    for where, name in _texts(node, path):
        if not name.startswith("sentence_transformers."):
            file = f"{name.rpartition('.')[0]}.py"
            runs = "--" in name or ".." in name or file in names_of(files)
            yield where, Program("", Opaque(name, "called" if runs else "object"), _SENTENCES)


def _of_layer(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    """Activations, by a path to their class; transformers calls its own by a word."""
    if not isinstance(document, dict):
        return
    inner = document.get("sentence_transformers")
    said = {
        ("activation_function",): document.get("activation_function"),
        ("sbert_ce_default_activation_function",): document.get("sbert_ce_default_activation_function"),
        ("sentence_transformers", "activation_fn"): inner.get("activation_fn") if isinstance(inner, dict) else None,
    }
    for where, name in said.items():
        if isinstance(name, str) and "." in name and not name.startswith(("torch.nn.", "sentence_transformers.")):
            yield where, _called(name, _SENTENCES)


def _of_config(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
    yield from _of_layer(document, home, files)
    if isinstance(document, dict) and document.get("model_type") == _NESTS_CODE:
        inner = document.get("vision_config")
        for where, name in _texts(inner.get("auto_map") if isinstance(inner, dict) else None, ("auto_map",)):
            yield ("vision_config", *where), _called(name, "vLLM")
    file = document.get("model_file") if isinstance(document, dict) else None
    if isinstance(file, str) and PurePosixPath(file).name.endswith(_MODULES):  # "module.py/." is that file, too
        yield ("model_file",), _called(file, _MLX)


def _of_adapter(document: MetaNode, home: str, files: frozenset[str]) -> Iterator[tuple[Path, Program]]:
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


_OF_FILES = {
    _INDEX: _of_pipeline, "modular_model_index.json": _of_pipeline, MODULES: _of_modules,
    "router_config.json": _of_router,
    "wordembedding_config.json": _of_words, "config.json": _of_config, "adapter_config.json": _of_adapter,
}  # fmt: skip
"""What a configuration of that name says besides."""
