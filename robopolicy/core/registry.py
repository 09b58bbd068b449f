"""Names to things, loaded when first asked for, with a near-miss hint when the name is unknown.

Your own heads, samplers or experts register themselves when their module is imported.  ``ROBOPOLICY_PLUGINS`` names
such modules (comma-separated) for the command line; files never do, so a checkpoint cannot choose what is imported.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from robopolicy.core.errors import ConfigError, did_you_mean

T = TypeVar("T")
PLUGINS = "ROBOPOLICY_PLUGINS"


def load_plugins() -> None:
    """Import the modules that ``ROBOPOLICY_PLUGINS`` names (once each; later calls cost nothing)."""
    for name in filter(None, (n.strip() for n in os.environ.get(PLUGINS, "").split(","))):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:
            raise ConfigError(f"{PLUGINS} names '{name}', but there is no module '{e.name}' on PYTHONPATH") from e


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
        if name not in self:
            raise ConfigError(f"unknown {self.what} '{name}'" + did_you_mean(name, self._entries))
        target = self._entries[name]
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            target = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return target

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            load_plugins()
        return name in self._entries
