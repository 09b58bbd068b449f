"""What an operator asks of a driver, for drivers that hand every such call on to something else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class OperatorCalls(ABC):
    """The operator's part of ``contract.Driver``, as calls by name."""

    @abstractmethod
    def _call(self, name: str, /, **arguments: Any) -> Any:
        """Have it done, or raise ``RequestRefused`` with the reason."""

    def ask_to_arm(self, operator: str) -> None:
        """See ``Driver``."""
        self._call("ask_to_arm", operator=operator)

    def confirm_arming(self, operator: str) -> None:
        """See ``Driver``."""
        self._call("confirm_arming", operator=operator)

    def start(self) -> None:
        """See ``Driver``."""
        self._call("start")

    def pause(self, why: str = "paused by the operator") -> None:
        """See ``Driver``."""
        self._call("pause", why=why)

    def resume(self) -> None:
        """See ``Driver``."""
        self._call("resume")

    def intervene(self) -> None:
        """See ``Driver``."""
        self._call("intervene")

    def release(self) -> None:
        """See ``Driver``."""
        self._call("release")

    def estop(self) -> None:
        """See ``Driver``."""
        self._call("estop")

    def recover(self, operator: str) -> None:
        """See ``Driver``."""
        self._call("recover", operator=operator)
