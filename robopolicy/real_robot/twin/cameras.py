"""The twin's cameras as the robot's camera nodes deliver them: JPEG bytes, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from robopolicy.core.errors import ConfigError
from robopolicy.sim.render import Cameras

FAULTS = ("freeze", "stop", "blank", "corrupt", "encoding", "size")


class TwinCameras:
    """Pictures of a scene without shadows, at ``size`` (height, width), as JPEG of ``quality``.

    ``faults[name]`` of ``FAULTS`` spoils one camera: ``freeze`` repeats its last picture under new stamps, ``stop``
    publishes none, ``blank`` shows black, ``corrupt`` cuts the bytes off half way, ``encoding`` sends PNG, ``size``
    halves the picture.
    """

    def __init__(
        self, cameras: Cameras, names: Sequence[str], size: tuple[int, int], quality: int, seed: int = 0
    ) -> None:
        for name in names:
            cameras.index(name)
        self._cameras, self.names, self._size, self._quality = cameras, tuple(names), size, quality
        self._random = np.random.default_rng(seed)
        self.faults: dict[str, str] = {}
        self._last: dict[str, tuple[str, bytes]] = {}

    def picture(self, name: str) -> np.ndarray:
        """RGB picture ``(height, width, 3)`` uint8 of the present state."""
        return self._cameras.colour(name, self._size)

    def compressed(self, name: str) -> tuple[str, bytes] | None:
        """``format`` and ``data`` of the next message, None if this camera is silent."""
        fault = self.faults.get(name, "")
        if fault == "stop":
            return None
        if fault == "freeze" and name in self._last:
            return self._last[name]
        rgb = np.zeros((*self._size, 3), np.uint8) if fault == "blank" else self._sensed(self.picture(name))
        if fault == "size":
            rgb = rgb[::2, ::2]
        made = ("png", self._encode(".png", rgb)) if fault == "encoding" else ("jpeg", self._encode(".jpg", rgb))
        if fault == "corrupt":
            made = (made[0], made[1][: len(made[1]) // 2])
        self._last[name] = made
        return made

    def _sensed(self, rgb: np.ndarray) -> np.ndarray:
        """With a sensor's noise of a grey level: a driver takes equal bytes in a row for a camera that has frozen."""
        noise = self._random.integers(-1, 2, rgb.shape, np.int8)
        return np.clip(rgb.astype(np.int16) + noise, 0, 255).astype(np.uint8)

    def _encode(self, kind: str, rgb: np.ndarray) -> bytes:
        import cv2

        options: list[Any] = [cv2.IMWRITE_JPEG_QUALITY, self._quality] if kind == ".jpg" else []
        done, data = cv2.imencode(kind, np.ascontiguousarray(rgb[..., ::-1]), options)
        if not done:
            raise ConfigError(f"OpenCV cannot write {kind} pictures of {rgb.shape}; reinstall opencv-python-headless")
        return bytes(data.tobytes())
