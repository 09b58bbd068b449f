"""Between plain dicts and the message objects of rospy and rclpy, guided by the field table."""

from __future__ import annotations

import importlib
from typing import Any

from robopolicy.core.errors import BridgeError
from robopolicy.real_robot.wire.messages import Message
from robopolicy.real_robot.wire.schema import PRIMITIVES, STAMP_KEYS, Flavour, lookup


def ros_class(type_name: str, kind: str = "msg") -> Any:
    """The generated class of ``package/Name``; raises ``BridgeError`` where its package is not installed."""
    package, _, name = type_name.partition("/")
    try:
        return getattr(importlib.import_module(f"{package}.{kind}"), name)
    except (ImportError, AttributeError) as e:
        raise BridgeError(f"this ROS installation has no {package}/{kind}/{name}: {e}; install its package") from None


def fill_ros(target: Any, type_name: str, message: Message, flavour: Flavour) -> Any:
    """Write a checked message into a ROS object of its type, and return that."""
    for f in lookup(type_name, flavour).fields:
        value = message[f.name]
        if f.kind in ("time", "duration") and f.length is None:
            stamp = getattr(target, f.name)
            for key in STAMP_KEYS[flavour]:
                setattr(stamp, key, value[key])
        elif f.kind in PRIMITIVES:
            setattr(target, f.name, value)
        elif f.length is None:
            fill_ros(getattr(target, f.name), f.kind, value, flavour)
        else:
            make = ros_class(f.kind)
            setattr(target, f.name, [fill_ros(make(), f.kind, v, flavour) for v in value])
    return target


def read_ros(source: Any, type_name: str, flavour: Flavour) -> Message:
    """A ROS object as a plain dict."""
    message: Message = {}
    for f in lookup(type_name, flavour).fields:
        value = getattr(source, f.name)
        if f.kind in ("time", "duration") and f.length is None:
            message[f.name] = {key: int(getattr(value, key)) for key in STAMP_KEYS[flavour]}
        elif f.kind not in PRIMITIVES:
            one = f.length is None
            message[f.name] = read_ros(value, f.kind, flavour) if one else [read_ros(v, f.kind, flavour) for v in value]
        elif f.length is None:
            message[f.name] = value
        elif f.kind == "uint8":
            message[f.name] = bytes(value)
        else:
            message[f.name] = value.tolist() if hasattr(value, "tolist") else list(value)
    return message
