"""JPEG pictures as they travel: a look at the bytes without decoding, and the decoding on use.

Source: ITU-T T.81 (JPEG), annex B: markers and the frame header.  The control process looks at every picture and
decodes none; whoever uses one decodes it, once.
"""

from __future__ import annotations

import numpy as np

from robopolicy.core.errors import InvalidObservation
from robopolicy.real_robot.control.observations import Frame

_START, _END = b"\xff\xd8", b"\xff\xd9"
# Start of frame of every coding but the differential ones; the three left out are no frames.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
PADDING = 16  # zero bytes that some drivers leave behind the end


def jpeg_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and colours of a whole JPEG, or ``None`` if it is none, or not whole."""
    if not data.startswith(_START) or _END not in data[-2 - PADDING :]:
        return None
    at = 2
    while at + 10 <= len(data):
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind in _BARE:
            at += 2
        elif kind in _FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return height, width, data[at + 9]
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def picture_problem(form: str, data: bytes, size: tuple[int, int]) -> str | None:
    """Why a ``CompressedImage`` is not the picture that was configured, or ``None``; ``size``: height, width."""
    if data.startswith(b"\x89PNG"):
        return f"it sends PNG (format '{form[:40]}'), expected JPEG: set its image transport to compressed, jpeg"
    shape = jpeg_shape(data)
    if shape is None:
        return f"{len(data)} bytes of format '{form[:40]}' are no whole JPEG"
    if shape[2] != 3:
        return f"its JPEG has {shape[2]} colour(s), expected 3"
    if shape[:2] != tuple(size):
        return f"its pictures are {shape[0]} x {shape[1]}, expected {size[0]} x {size[1]} (height x width)"
    return None


def decode(frame: Frame, size: tuple[int, int] | None = None) -> np.ndarray:
    """RGB picture ``(height, width, 3)`` uint8 of a frame that holds JPEG bytes, or already an array.

    Raises ``InvalidObservation`` if it cannot be decoded or is not of ``size`` (height, width).
    """
    if isinstance(frame.data, np.ndarray):
        rgb = frame.data
    else:
        import cv2

        bgr = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            raise InvalidObservation(f"a picture of {len(frame.data)} bytes cannot be decoded")
        rgb = np.ascontiguousarray(bgr[..., ::-1])
    if size is not None and rgb.shape[:2] != tuple(size):
        raise InvalidObservation(f"a picture is {rgb.shape[0]} x {rgb.shape[1]}, expected {size[0]} x {size[1]}")
    return rgb
