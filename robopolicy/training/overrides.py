"""Command-line overrides: ``--policy.horizon 16 --dataset.path X --ema.enabled=false`` to a nested mapping.

Values are read as YAML scalars or flow collections, then checked against the typed config like those of a preset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from robopolicy.core.errors import ConfigError


def parse_value(text: str) -> Any:
    """A YAML scalar, list or mapping; text that is no YAML stays text."""
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def split_arguments(tokens: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Positional words and ``{dotted name: text}`` of ``--name value`` / ``--name=value`` tokens.

    A name may be given once.  Dashes inside names count as underscores.
    """
    words: list[str] = []
    flags: dict[str, str] = {}
    pending: str | None = None
    for token in tokens:
        if pending is not None:
            flags[pending] = token
            pending = None
        elif token.startswith("--"):
            name, equals, text = token[2:].partition("=")
            name = name.replace("-", "_")
            if name in flags:
                raise ConfigError(f"--{name} is given twice")
            if equals:
                flags[name] = text
            else:
                pending = name
        else:
            words.append(token)
    if pending is not None:
        raise ConfigError(f"--{pending} has no value; write --{pending} VALUE (true or false for switches)")
    return words, flags


def merge(data: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` with each dotted override put in its place; neither argument is changed."""
    merged: dict[str, Any] = {k: _copy(v) for k, v in data.items()}
    for dotted, text in overrides.items():
        *parents, leaf = dotted.split(".")
        node = merged
        for i, name in enumerate(parents):
            child = node.get(name)
            if child is None:
                child = node[name] = {}
            elif not isinstance(child, dict):
                at = ".".join(parents[: i + 1])
                child = node[name] = _promote(child, at, dotted)
            node = child
        node[leaf] = parse_value(text) if isinstance(text, str) else text
    return merged


def _promote(value: Any, at: str, dotted: str) -> dict[str, Any]:
    # `env: pusht` is shorthand for `env: {name: pusht}`, which --env.kwargs.x must be able to extend.
    if at == "env" and isinstance(value, str):
        return {"name": value}
    raise ConfigError(f"--{dotted}: '{at}' is the value {value!r}, not a group of options")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return list(value) if isinstance(value, list) else value
