"""Internal attributes of Python's and Jinja's objects, which Jinja's sandbox hides from templates.

They are the attributes of all objects that a template has, or can make, without such an attribute: strings, numbers,
lists, dicts, functions, generators, classes, and Jinja's own (``self``, ``loop``, ``cycler``, ``namespace``, macros).
Any attack has to begin with one of them. Collected from jinja2 3.1 under Python 3.11 to 3.14.

Source: jinja2/sandbox.py (`is_internal_attribute`, `is_safe_attribute`).
"""

from __future__ import annotations

import re

_PYTHON_DUNDERS = (
    "abs abstractmethods add aiter all alloc and anext annotate annotate_func annotations annotations_cache await base "
    "bases basicsize bool builtins bytes cached call cause ceil class class_getitem closure code complex contains "
    "context defaults del delattr delete delitem dict dictoffset dir div divmod doc enter eq exit file firstlineno "
    "flags float floor floordiv format func ge get getattr getattribute getformat getitem getnewargs getnewargs_ex "
    "getstate globals gt hash html html_format iadd iand imul import index init init_subclass instancecheck int invert "
    "ior isabstractmethod isub itemsize iter ixor kwdefaults le len length_hint loader long lshift lt match_args mod "
    "module mro mro_entries mul name ne neg new next nonzero objclass or orig_bases package pos pow prepare qualname "
    "radd rand rdiv rdivmod reduce reduce_ex repr reversed rfloordiv rlshift rmod rmul ror round rpow rrshift rshift "
    "rsub rtruediv rxor self self_class set set_name setattr setitem setstate sizeof slots spec static_attributes str "
    "sub subclasscheck subclasses subclasshook suppress_context text_signature thisclass traceback truediv trunc "
    "type_params weakref weakrefoffset wrapped xor"
)
_OTHER_NAMES = (
    "_GeneratorWrapper _after _argument_count _arguments _asdict _async_call _async_invoke _before _body_stream "
    "_calculate_meta _cell_factory _co_code_adaptive _compile _context _current _debug_info _default_autoescape _depth "
    "_environment _fail_with_undefined_error _field_defaults _fields _filter_test_common _from_namespace _func "
    "_generate _get_default_module _get_default_module_async _invoke _iterable _iterator _last_changed_value _length "
    "_load_template _make _module _parse _peek_next _recurse _replace _stack _to_iterator _tokenize _undefined "
    "_undefined_exception _undefined_hint _undefined_message _undefined_name _undefined_obj _uptodate "
    "_varname_from_oparg mro gi_frame gi_code cr_frame cr_code ag_frame ag_code gi_yieldfrom cr_await cr_origin "
    "ag_await"
)
_DUNDERS, _OTHERS = frozenset(_PYTHON_DUNDERS.split()), frozenset(_OTHER_NAMES.split())
_MANGLED = re.compile(r"_[A-Za-z]\w*__\w+")


def is_internal(name: str) -> bool:
    """Whether this is the name of an internal attribute of some object that a template can have."""
    if name.startswith("__") and name.endswith("__"):
        return name[2:-2] in _DUNDERS
    return name in _OTHERS or _MANGLED.fullmatch(name) is not None
