"""What the client still has to send: never more than one message a topic, and never a late one."""

from __future__ import annotations

import threading
from collections import deque


class Outgoing:
    """What waits for the socket: control frames in order, and one message a topic, newest wins, with a deadline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: deque[str] = deque()
        self._messages: dict[str, tuple[str, float]] = {}
        self.replaced = self.expired = self.sent = 0

    def control(self, text: str) -> None:
        """Queue a frame that is not a stream's."""
        with self._lock:
            self._control.append(text)

    def message(self, topic: str, text: str, deadline: float) -> None:
        """Put a message in its topic's slot, in place of one that still waits."""
        with self._lock:
            self.replaced += topic in self._messages
            self._messages[topic] = (text, deadline)

    def pop(self, now: float) -> str | None:
        """The next frame to send; messages whose deadline has passed are discarded."""
        with self._lock:
            if self._control:
                return self._control.popleft()
            while self._messages:
                topic = next(iter(self._messages))
                text, deadline = self._messages.pop(topic)
                if now <= deadline:
                    self.sent += 1
                    return text
                self.expired += 1
        return None

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._control and not self._messages

    def clear(self) -> None:
        """Forget everything: the connection is gone."""
        with self._lock:
            self._control.clear()
            self.expired += len(self._messages)
            self._messages.clear()
