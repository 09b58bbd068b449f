"""Frozen, typed configuration classes: unknown keys refused, bad values told in one line (pydantic, no torch)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from robopolicy.core.errors import ConfigError, did_you_mean

C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def config_dataclass(cls: type[C]) -> type[C]:
    """Class decorator: a frozen pydantic dataclass that refuses unknown keys and raises ``ConfigError``.

    Values are coerced the way a command line needs it (``"16"`` becomes 16).  ``__post_init__`` may raise
    ``ConfigError`` for values that contradict each other.
    """
    made: Any = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))(cls)
    validating_init = made.__init__

    @functools.wraps(validating_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validating_init(self, *args, **kwargs)
        except ValidationError as e:
            raise config_error(e, made) from None

    # Instances that pydantic builds for nested fields skip this wrapper, so the outermost class reports for all.
    made.__init__ = init
    result: type[C] = made
    return result


def build_config(cls: type[C], data: Mapping[str, Any], where: str = "") -> C:
    """Instance of a configuration class from plain data (YAML, JSON, command line).

    ``where`` (a file name, usually) opens the message of the ``ConfigError`` raised when the data do not fit.
    """
    if not isinstance(data, Mapping):
        prefix = f"{where}: " if where else ""
        raise ConfigError(f"{prefix}expected a mapping of {cls.__name__} keys, got {type(data).__name__}")
    try:
        return TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as e:
        raise config_error(e, cls, where) from None


def dump_config(config: Any) -> dict[str, Any]:
    """Plain data (JSON and YAML ready) that ``build_config`` turns back into an equal instance."""
    data: dict[str, Any] = TypeAdapter(type(config)).dump_python(config, mode="json")
    return data


def config_error(error: ValidationError, cls: type, where: str = "") -> ConfigError:
    """One line for all problems of a pydantic error, with the nearest name for unknown keys."""
    parts = [describe_problem(problem, cls) for problem in error.errors(include_url=False)]
    prefix = f"{where}: " if where else ""
    return ConfigError(prefix + "; ".join(dict.fromkeys(parts)))


def describe_problem(problem: Any, cls: type) -> str:
    """One of ``ValidationError.errors()`` in a few words, with the nearest name for an unknown key."""
    path = [str(p) for p in problem["loc"]]
    name = ".".join(path) or cls.__name__
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key '{name}'" + did_you_mean(path[-1], _known_keys(cls, path[:-1]))
    if problem["type"] in ("missing", "missing_argument"):
        return f"missing key '{name}'"
    if problem["type"] == "value_error":
        # Our own checks: the message stands by itself, the key only helps when it is nested.
        own = str(problem["ctx"]["error"])
        return f"{name}: {own}" if path else own
    return f"{name}: {problem['msg'].lower()}, got {problem['input']!r}"


def _known_keys(cls: Any, path: list[str]) -> list[str]:
    """Field names of the configuration class that ``path`` leads to (best effort: unions may hide it)."""
    for name in path:
        fields = getattr(cls, "__pydantic_fields__", {})
        annotation = fields[name].annotation if name in fields else None
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        cls = next((c for c in candidates if hasattr(c, "__pydantic_fields__")), cls)
    return list(getattr(cls, "__pydantic_fields__", {}))
