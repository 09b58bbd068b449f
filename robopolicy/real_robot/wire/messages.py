"""Messages as plain dicts: check against the field table, fill, stamp (``codec`` writes and reads them).

Rules: a message is complete (every field, no other), its numbers are finite and in range, lists of a fixed length have
it.  ``uint8[]`` is ``bytes`` in memory, base64 text in JSON, a byte string in CBOR.  A ``null`` where a number belongs
is how rosbridge shows NaN and infinity to JSON subscribers; it makes the whole message invalid.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robopolicy.core.errors import InvalidMessage
from robopolicy.real_robot.wire.schema import INTEGERS, PRIMITIVES, STAMP_KEYS, Field, Flavour, lookup

Message = dict[str, Any]
Checker = Callable[[Any], Any]


class _Fault(Exception):
    """A bad value; the path to it grows while the exception climbs."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what, self.path = what, ""

    def under(self, step: str) -> _Fault:
        self.path = f"{step}.{self.path}" if self.path and not self.path.startswith("[") else f"{step}{self.path}"
        return self


def conform(type_name: str, message: Any, flavour: Flavour, extra: bool = False) -> Message:
    """A fresh, complete, checked copy of ``message``; NumPy arrays and scalars become lists and numbers.

    ``extra`` lets fields pass that the table does not know (they are dropped): for reading what a newer robot sends.
    Raises ``InvalidMessage`` naming the field, ``UnknownType`` for the type.
    """
    try:
        result: Message = _message_checker(lookup(type_name, flavour).name, flavour, extra)(message)
        return result
    except _Fault as e:
        raise InvalidMessage(f"{type_name}: {e.path or 'message'} {e.what}") from None


def check_field(field: Field, value: Any, flavour: Flavour) -> Any:
    """One field's value, checked as ``conform`` does."""
    try:
        return _field_checker(field, flavour, False)(value)
    except _Fault as e:
        raise InvalidMessage(f"{e.under(field.name).path} {e.what}") from None


def zeros(type_name: str, flavour: Flavour) -> Message:
    """The message with every field zero, empty or false (a quaternion too: fill it in)."""
    return {f.name: _zero(f, flavour) for f in lookup(type_name, flavour).fields}


def stamp_of(seconds: float, flavour: Flavour) -> dict[str, int]:
    """A ROS time in the flavour's spelling."""
    if not math.isfinite(seconds) or not 0 <= seconds < 2**31:
        raise InvalidMessage(f"a stamp is between 0 and 2**31 seconds, got {seconds}")
    nanos = round(seconds * 1e9)
    whole, part = STAMP_KEYS[flavour]
    return {whole: nanos // 10**9, part: nanos % 10**9}


def seconds_of(stamp: Mapping[str, int]) -> float:
    """Seconds of a ROS time in either spelling."""
    whole, part = STAMP_KEYS["ros1" if "secs" in stamp else "ros2"]
    return stamp[whole] + stamp[part] * 1e-9


def stamp_key(message: Mapping[str, Any]) -> tuple[int, int] | None:
    """The header's stamp as (seconds, nanoseconds), which orders exactly; None without a header or with stamp zero."""
    header = message.get("header")
    if not isinstance(header, Mapping):
        return None
    whole, part = STAMP_KEYS["ros1" if "secs" in header["stamp"] else "ros2"]
    key = (header["stamp"][whole], header["stamp"][part])
    return key if key != (0, 0) else None


def header(seconds: float, frame_id: str, flavour: Flavour, seq: int = 0) -> Message:
    """A ``std_msgs/Header``; ROS 2 has no ``seq``."""
    h: Message = {"stamp": stamp_of(seconds, flavour), "frame_id": frame_id}
    return {"seq": seq, **h} if flavour == "ros1" else h


# --- checkers: one closure a type, built once -------------------------------------------------------------------


@functools.cache
def _message_checker(name: str, flavour: Flavour, extra: bool) -> Checker:
    fields = lookup(name, flavour).fields
    checks = {f.name: _field_checker(f, flavour, extra) for f in fields}
    fill = {f.name: functools.partial(_zero, f, flavour) for f in fields if f.optional}

    def check(value: Any) -> Message:
        if not isinstance(value, Mapping):
            raise _Fault(f"must be an object, got {_shown(value)}")
        result: Message = {}
        for key, checker in checks.items():
            if key in value:
                try:
                    result[key] = checker(value[key])
                except _Fault as e:
                    raise e.under(key) from None
            elif key in fill:
                result[key] = fill[key]()
            else:
                raise _Fault("is missing").under(key)
        if not extra and len(result) != len(value) and (unknown := [k for k in value if k not in checks]):
            raise _Fault(f"has unknown fields {sorted(map(str, unknown))[:5]}")
        return result

    return check


def _field_checker(f: Field, flavour: Flavour, extra: bool) -> Checker:
    one = _PRIMITIVE_CHECKERS[f.kind](flavour) if f.kind in PRIMITIVES else _message_checker(f.kind, flavour, extra)
    if f.length is None:
        return one
    if f.kind == "uint8":
        return functools.partial(_byte_string, length=f.length)
    return functools.partial(_list, one=one, length=f.length, floats=f.kind == "float64")


def _list(value: Any, one: Checker, length: int, floats: bool) -> list[Any]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, (list, tuple)):
        raise _Fault(f"must be a list, got {_shown(value)}")
    if length and len(value) != length:
        raise _Fault(f"must have {length} values, got {len(value)}")
    if floats and all(type(v) is float for v in value) and math.isfinite(sum(value)):
        return list(value)
    result = []
    for i, v in enumerate(value):
        try:
            result.append(one(v))
        except _Fault as e:
            raise e.under(f"[{i}]") from None
    return result


def _byte_string(value: Any, length: int) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
        data = value.tobytes()
    elif isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise _Fault("must be base64 text") from None
    elif isinstance(value, (list, tuple)) and all(type(v) is int and 0 <= v < 256 for v in value):
        data = bytes(value)
    else:
        raise _Fault(f"must be bytes, got {_shown(value)}")
    if length and len(data) != length:
        raise _Fault(f"must have {length} bytes, got {len(data)}")
    return data


def _float(value: Any) -> float:
    if type(value) is not float:
        if value is None:
            raise _Fault("is null: the sender's number was NaN or infinite")
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise _Fault(f"must be a number, got {_shown(value)}")
        try:
            value = float(value)
        except OverflowError:
            raise _Fault("is too large for a float64") from None
    if not math.isfinite(value):
        raise _Fault(f"must be finite, got {value}")
    return value


def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Fault(f"must be true or false, got {_shown(value)}")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Fault(f"must be text, got {_shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half a character; nothing else can.
            raise _Fault("is not valid Unicode text") from None
    return value


def _integer(low: int, high: int) -> Checker:
    def check(value: Any) -> int:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
            raise _Fault(f"must be a whole number, got {_shown(value)}")
        if not low <= int(value) <= high:
            raise _Fault(f"must be in {low}..{high}, got {_shown(value)}")
        return int(value)

    return check


def _time(flavour: Flavour) -> Checker:
    keys = STAMP_KEYS[flavour]
    checks = (_integer(-(2**31), 2**32 - 1), _integer(0, 10**9 - 1))

    def check(value: Any) -> dict[str, int]:
        if not isinstance(value, Mapping) or set(value) != set(keys):
            raise _Fault(f"must be {{{keys[0]}, {keys[1]}}} on a {flavour} server, got {_shown(value)}")
        return {k: c(value[k]) for k, c in zip(keys, checks, strict=True)}

    return check


def _integer_of(kind: str) -> Checker:
    sign, bits = INTEGERS[kind]
    return _integer(0, 2**bits - 1) if sign == "u" else _integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_PRIMITIVE_CHECKERS: dict[str, Callable[[Flavour], Checker]] = {
    "bool": lambda flavour: _bool,
    "string": lambda flavour: _text,
    "float32": lambda flavour: _float,
    "float64": lambda flavour: _float,
    "time": _time,
    "duration": _time,
    **{kind: functools.partial(lambda kind, flavour: _integer_of(kind), kind) for kind in INTEGERS},
}


def _zero(f: Field, flavour: Flavour) -> Any:
    if f.length is not None:
        if f.kind == "uint8":
            return bytes(f.length)
        return [_zero_value(f.kind, flavour) for _ in range(f.length)]
    return _zero_value(f.kind, flavour)


def _zero_value(kind: str, flavour: Flavour) -> Any:
    if kind in ("time", "duration"):
        return dict.fromkeys(STAMP_KEYS[flavour], 0)
    if kind in PRIMITIVES:
        return {"bool": False, "string": "", "float32": 0.0, "float64": 0.0}.get(kind, 0)
    return zeros(kind, flavour)


def _shown(value: Any) -> str:
    """A value in at most a few words, whatever a stranger sent."""
    if isinstance(value, (str, bytes, list, tuple, Mapping)):
        return f"{type(value).__name__} of length {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return "null" if value is None else repr(value)[:60]
