"""JSON and CBOR, written without NaN and read without trust."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from robopolicy.core.errors import FrameRefused, InvalidMessage


def encode_json(value: Any) -> str:
    """JSON text in one line; NaN and infinity raise ``InvalidMessage``, ``bytes`` become base64."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_json_leaf)
    except (ValueError, TypeError, RecursionError) as e:
        raise InvalidMessage(f"cannot be written as JSON: {e}") from None


def decode_json(text: str | bytes) -> Any:
    """Value of exactly one JSON text; NaN and Infinity, too deep nesting and two texts raise ``FrameRefused``."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise FrameRefused(f"not one JSON text: {str(e)[:120]}") from None


def encode_cbor(value: Any) -> bytes:
    """CBOR bytes (images travel this way: no base64)."""
    import cbor2

    return cbor2.dumps(value)


def decode_cbor(data: bytes) -> Any:
    """Value of one CBOR item.

    Typed arrays (tags 64 to 87, RFC 8746) become lists; every other tag is refused: none belongs to a message, and
    some make the reader compile patterns or build cycles.
    """
    import cbor2

    try:
        return cbor2.loads(
            data,
            tag_hook=_typed_array,
            semantic_decoders=_refused_tags(),
            max_depth=32,
            allow_indefinite=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as e:
        raise FrameRefused(f"not one CBOR item: {str(e)[:120]}") from None


def _json_leaf(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} does not belong in a message")


def _no_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


# RFC 8746: tag = 0b010_f_s_e_ll (float, signed, little-endian, length).
_TYPED_ARRAYS = {
    64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8",
    72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8",
    80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8",
}  # fmt: skip
_KNOWN_TAGS = (*range(6), *range(21, 24), 25, *range(28, 40), 100, 256, 258, 260, 261, 1004, 43000, 55799)


def _typed_array(*arguments: Any) -> Any:
    # The order of a tag hook's arguments differs between releases of cbor2: the tag is the one that has a number.
    tag = next(a for a in arguments if hasattr(a, "tag"))
    if tag.tag not in _TYPED_ARRAYS or not isinstance(tag.value, bytes):
        raise ValueError(f"tag {tag.tag} does not belong in a message")
    return np.frombuffer(tag.value, dtype=_TYPED_ARRAYS[tag.tag]).tolist()


@functools.cache
def _refused_tags() -> dict[int, Callable[[Any], Any]]:
    def refuse(*arguments: Any) -> Any:
        raise ValueError("a CBOR tag that does not belong in a message")

    return dict.fromkeys(_KNOWN_TAGS, refuse)
