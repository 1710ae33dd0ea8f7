"""What a ``quantization_config`` says: which modules are stored how, and keys and values of what.

Read as the libraries read it that write such files. Patterns name modules as the file's own tree
does, with globs, with ``re:`` before a regular expression, or by a part of the path; that tree may
differ from the one that is built by where ``model`` and ``language_model`` stand, so they are left
out on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from calib.errors import CalibError, shown
from calib.trace.weights import formats
from calib.trace.weights.formats import FLOAT8, INT8, WITH_INT8, Format
from calib.trace.weights.inventory import Held

KEY = "quantization_config"
WRAPPERS = ("model", "language_model")
"""Parts of a path that a file's tree and the one that is built order differently."""
HEAD = ("lm_head",)


class Unread(Exception):
    """A quantization that has no format here, and why."""


@dataclass(frozen=True)
class Scheme:
    """``groups``: patterns or classes and the format of what they name, the first that does.

    ``left``: patterns of what is not quantised. ``kv_dtype``: of the cache, if the file says so.
    ``experts_alone``: of layers with experts only those are quantised.
    """

    method: str
    groups: tuple[tuple[tuple[str, ...], Format], ...]
    left: tuple[str, ...] = ()
    kv_dtype: str | None = None
    experts_alone: bool = False

    def format_of(self, path: str, held: Held) -> Format | None:
        """The format of the matrices of the module at ``path``; None: as the model's dtype."""
        if self.experts_alone and not held.experts:
            return None
        names = [path] if not held.experts else [path, f"{path}.0.gate_proj"]
        if any(pattern(name) for pattern in self._left for name in names):
            return None
        for targets, format_ in self.groups:
            kind = "Linear" if held.experts else held.kind
            if any(t in (kind, "Linear") or _matcher(t)(names[-1]) for t in targets):
                return format_
        return None

    @cached_property
    def _left(self) -> list[Callable[[str], bool]]:
        return [_matcher(pattern) for pattern in self.left]

    def words(self) -> str:
        stored = "; ".join(f.words() for _, f in self.groups)
        cache = f"; keys and values in {self.kv_dtype}" if self.kv_dtype else ""
        return f"{self.method}: {stored}{cache}"


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a path is named by ``pattern``."""
    if pattern.startswith("re:"):
        compiled = re.compile(pattern.removeprefix("re:"))
        return lambda path: any(compiled.match(p) for p in (path, *_otherwise(path)))
    inner = ".*".join(re.escape(part) for part in _bare(pattern.removesuffix("*")).split("*"))
    end = "" if pattern.endswith("*") else r"(\.|$)"
    anchored = re.compile(rf"(^|\.){inner}{end}")
    return lambda path: anchored.search(_bare(path)) is not None


def _bare(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def _otherwise(path: str) -> tuple[str, ...]:
    """The same module in trees of other versions."""
    bare = _bare(path)
    return bare, f"model.{bare}", f"language_model.model.{bare}", f"model.language_model.{bare}"


def scheme_of(given: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Scheme | None:
    """The scheme of a ``config.json``; ``beside``: of a ``hf_quant_config.json`` next to it.

    None where nothing is quantised. Raises ``Unread`` for a format that is not known here, and
    ``CalibError`` for a value that cannot be.
    """
    text = given.get("text_config")
    for place in (given, text if isinstance(text, Mapping) else {}):
        for key in (KEY, "compression_config"):
            config = place.get(key)
            if isinstance(config, Mapping) and config:
                return read(config)
    if beside and isinstance(beside.get("quantization"), Mapping):
        return read({"quant_method": "modelopt", **beside["quantization"]})
    return None


def read(config: Mapping[str, Any]) -> Scheme:
    """Raises as :func:`scheme_of` does."""
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"
    if method not in READERS:
        raise Unread(f"quant_method = {shown(method)}")
    return READERS[str(method)](config)


# What a method writes


def _fp8(config: Mapping[str, Any]) -> Scheme:
    block = config.get("weight_block_size")
    static = config.get("activation_scheme") == "static"
    rows, cols = (_whole(config, "weight_block_size", n) for n in block) if block else (0, 0)
    format_ = formats.float8(rows, cols, 4, static)
    return Scheme("fp8", (_linear(format_),), (*_left(config), *HEAD), _cache(config))


def _fbgemm(config: Mapping[str, Any]) -> Scheme:
    """A scale for each output, and ``input_scale_ub``."""
    format_ = formats.float8(1, 0, 4, once=4)
    return Scheme("fbgemm_fp8", (_linear(format_),), (*_left(config), *HEAD), _cache(config))


def _awq(config: Mapping[str, Any]) -> Scheme:
    bits, group = _bits(config), _group(config.get("group_size", config.get("q_group_size", 128)))
    format_ = formats.awq(bits, group, bool(config.get("zero_point", True)))
    return Scheme("awq", (_linear(format_),), (*_left(config), *HEAD))


def _gptq(config: Mapping[str, Any]) -> Scheme:
    format_ = formats.gptq(_bits(config), _group(config.get("group_size", 128)))
    kept = [
        str(pattern).removeprefix("-:")
        for pattern in config.get("dynamic") or ()
        if str(pattern).startswith("-:")
    ]
    left = (*_left(config), *(f"re:{p}" for p in kept), *(() if config.get("lm_head") else HEAD))
    return Scheme("gptq", (_linear(format_),), left)


def _bitsandbytes(config: Mapping[str, Any]) -> Scheme:
    if config.get("load_in_4bit") or config.get("_load_in_4bit"):
        format_ = formats.bitsandbytes4(bool(config.get("bnb_4bit_use_double_quant")))
    else:
        format_ = formats.bitsandbytes8()
    return Scheme("bitsandbytes", (_linear(format_),), (*_left(config), *HEAD))


def _mxfp4(config: Mapping[str, Any]) -> Scheme:
    group = (("Linear",), formats.mxfp4())
    return Scheme("mxfp4", (group,), _left(config), experts_alone=True)


def _modelopt(config: Mapping[str, Any]) -> Scheme:
    algorithm = str(config.get("quant_algo") or "").upper()
    known = {
        "FP8": formats.float8(0, 0, 4, static=True),
        "FP8_PER_CHANNEL_PER_TOKEN": formats.float8(1, 0, 4),
        "NVFP4": formats.nvfp4(),
        "W4A16_NVFP4": formats.nvfp4(both=False),
    }
    if algorithm not in known:
        raise Unread(f"quant_algo = {shown(config.get('quant_algo'))}")
    left = (*_left(config), *HEAD)
    return Scheme(f"modelopt {algorithm}", (_linear(known[algorithm]),), left, _cache(config))


def _compressed_tensors(config: Mapping[str, Any]) -> Scheme:
    """The head is a linear map like others, unless it is named among what is ignored."""
    if str(config.get("quant_algo") or ""):
        return _modelopt(config)
    found = config.get("config_groups")
    if not isinstance(found, Mapping):
        raise Unread(f"config_groups = {shown(found)}")
    groups = []
    for group in found.values():
        targets = tuple(str(t) for t in group.get("targets") or ("Linear",))
        groups.append((targets, _of_group(group, str(config.get("format")))))
    return Scheme("compressed-tensors", tuple(groups), _left(config), _cache(config))


def _of_group(group: Mapping[str, Any], layout: str) -> Format:
    weights: Mapping[str, Any] = group.get("weights") or {}
    inputs: Mapping[str, Any] = group.get("input_activations") or {}
    layout = str(group.get("format") or layout)
    kind, bits = str(weights.get("type")), int(weights.get("num_bits") or 0)
    rows, cols = _block(weights)
    static = bool(inputs) and not inputs.get("dynamic")
    if (kind, bits) == ("float", 8):
        wide = formats.float8(rows, cols, 2, static)
        return wide if inputs else Format(FLOAT8, None, (0, 0), rows, cols, 2)
    if (kind, bits) == ("float", 4):
        return formats.nvfp4(bool(inputs)) if "nvfp4" in layout else formats.mxfp4()
    zero = weights.get("symmetric") is False
    if (kind, bits) == ("int", 8) and inputs and "pack" not in layout:
        once = 2.0 if static else 0.0
        return Format(INT8, INT8, WITH_INT8, rows, cols, 2, 8.0 * zero, once=once)
    if (kind, bits) in (("int", 4), ("int", 8)):
        order = weights.get("actorder") in ("group", True)
        return formats.packed(bits, rows, cols, 2, zero, order)
    raise Unread(f"weights of {shown(kind)} and {shown(bits)} bits")


def _block(weights: Mapping[str, Any]) -> tuple[int, int]:
    """What shares a scale, by the name of the strategy."""
    strategy = weights.get("strategy")
    if strategy == "block":
        block = weights.get("block_structure") or ()
        sides = block.split("x") if isinstance(block, str) else list(block)
        if len(sides) == 2:
            rows, cols = (_whole(weights, "block_structure", side) for side in sides)
            return rows, cols
    if strategy in ("group", "tensor_group"):
        return 1, _group(weights.get("group_size"))
    if strategy in ("tensor", None):
        return 0, 0
    if strategy == "channel":
        return 1, 0
    raise Unread(f"strategy = {shown(strategy)}")


READERS: dict[str, Callable[[Mapping[str, Any]], Scheme]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "awq": _awq,
    "gptq": _gptq,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "compressed-tensors": _compressed_tensors,
}
"""By ``quant_method``."""


# Parts of a configuration


def _linear(format_: Format) -> tuple[tuple[str, ...], Format]:
    return ("Linear", "Conv1D"), format_


LEFT_BY = (
    *("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"),
    *("llm_int8_skip_modules", "ignored_modules"),
)


def _left(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Whatever key it has; a list of names."""
    found: list[str] = []
    for key in LEFT_BY:
        names = config.get(key) or ()
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise CalibError(f"{KEY}.{key} = {shown(names)}: expected a list of names")
        found += [str(name) for name in names if str(name)]
    return tuple(found)


def _cache(config: Mapping[str, Any]) -> str | None:
    """The type of keys and values: a scheme of bits, or a name."""
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, Mapping):
        name = f"{scheme.get('type')}{scheme.get('num_bits')}"
        return {"float8": FLOAT8, "int8": INT8, "int4": formats.INT4}.get(name)
    named = config.get("kv_cache_quant_algo") or config.get("cache_dtype") or scheme
    name = str(named or "").lower()
    narrow = {"fp8": FLOAT8, "int8": INT8, "nvfp4": formats.FLOAT4, "float8": FLOAT8}
    return next((dtype for start, dtype in narrow.items() if name.startswith(start)), None)


def _bits(config: Mapping[str, Any]) -> int:
    bits = config.get("bits", config.get("w_bit"))
    if bits not in (4, 8):
        raise Unread(f"bits = {shown(bits)}")
    return int(bits)


def _group(value: Any) -> int:
    """Columns that share a scale; 0: all of a row."""
    if value in (-1, None):
        return 0
    return _whole({}, "group_size", value)


def _whole(config: Mapping[str, Any], key: str, value: Any) -> int:
    text = str(value)
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise CalibError(f"{KEY}.{key} = {shown(config.get(key, value))}: expected whole numbers")
    return int(text)
