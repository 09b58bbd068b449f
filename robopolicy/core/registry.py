"""Names to things, loaded when first asked for, with a near-miss hint when the name is unknown."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from robopolicy.core.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry:
    """Maps names to objects or to lazy ``"module:attribute"`` targets (so that a list of names costs no import)."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Any] = {}

    def add(self, name: str, target: Any) -> None:
        """Register an object, or ``"module:attribute"`` to import on first use.  A name is given once."""
        if name in self._entries:
            raise ConfigError(f"{self.what} '{name}' is registered already")
        self._entries[name] = target

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of ``add``."""

        def wrap(obj: T) -> T:
            self.add(name, obj)
            return obj

        return wrap

    def get(self, name: str) -> Any:
        """The registered object; raises ``ConfigError`` with the nearest name."""
        if name not in self._entries:
            raise ConfigError(f"unknown {self.what} '{name}'" + did_you_mean(name, self._entries))
        target = self._entries[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return target

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries
