"""Every option with type, default and help text, taken from the config classes (``robopolicy train --help all``)."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from robopolicy.training.config import TrainConfig
from robopolicy.training.config_load import dataclasses_in, policy_config_class


def type_name(hint: Any) -> str:
    """Short readable form of a type hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin is Literal:
        return "|".join(str(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return "|".join("null" if a is type(None) else type_name(a) for a in args)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if a is Ellipsis else type_name(a) for a in args)}]"
    return getattr(hint, "__name__", str(hint))


def _default(field: Any) -> str:
    # pydantic marks "no default" with a sentinel whose class name is stable across its versions.
    if field.default_factory is not None:
        value = field.default_factory()
        return "..." if dataclasses.is_dataclass(value) else str(value)
    if type(field.default).__name__ == "PydanticUndefinedType":
        return "required"
    return "null" if field.default is None else str(field.default)


def option_lines(
    cls: type,
    prefix: str = "",
    policy: type | None = None,
    sections: Mapping[str, Mapping[str, type]] | None = None,
) -> Iterator[str]:
    """``--name TYPE (default)`` and its help, depth first.

    ``sections``: instead of a field of that name, the sections that fill it, each with its class.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    for name, field in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        dotted = f"{prefix}{name}"
        if sections is not None and name in sections:
            for section, its_class in sections[name].items():
                yield f"\n{section}: {(its_class.__doc__ or '').splitlines()[0]}"
                yield from option_lines(its_class, f"{section}.")
            continue
        inner = policy if dotted == "policy" else next(dataclasses_in(hints[name]), None)
        if inner is not None and hasattr(inner, "__pydantic_fields__"):
            yield f"\n{dotted}: {field.description or (inner.__doc__ or '').splitlines()[0]}"
            yield from option_lines(inner, f"{dotted}.")
        else:
            yield f"  --{dotted} {type_name(hints[name])} ({_default(field)})"
            if field.description:
                yield f"        {' '.join(field.description.split())}"


def describe(policy: str = "diffusion") -> str:
    """Help text of every field of a training config whose head is ``policy``."""
    return "\n".join(option_lines(TrainConfig, policy=policy_config_class(policy)))
