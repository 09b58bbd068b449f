"""Types of the wire, parsed from the field table: names in both ROS flavours, message text, ROS 1 checksums."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import Literal

from robopolicy.core.errors import UnknownType, did_you_mean
from robopolicy.real_robot.wire.schema_table import ACTIONS, MESSAGES, SERVICES

Flavour = Literal["ros1", "ros2"]
FLAVOURS: tuple[Flavour, Flavour] = ("ros1", "ros2")
INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}
PRIMITIVES = {"bool", "float32", "float64", "string", "time", "duration", *INTEGERS}
STAMP_KEYS: dict[str, tuple[str, str]] = {"ros1": ("secs", "nsecs"), "ros2": ("sec", "nanosec")}
_KINDS = ("msg", "srv", "action")


@dataclass(frozen=True, slots=True)
class Field:
    """One field: ``kind`` is a primitive or a full type name; ``length`` None for one value, 0 for a list, else n."""

    name: str
    kind: str
    length: int | None
    optional: bool
    text: str


@dataclass(frozen=True, slots=True)
class Type:
    """A message type in one flavour; ``constants`` are the texts that only the checksum and the message file need."""

    name: str
    fields: tuple[Field, ...]
    constants: tuple[str, ...]


def plain_name(type_name: str) -> str:
    """``package/Name`` of either spelling (``package/msg/Name`` is ROS 2's)."""
    parts = type_name.split("/")
    if len(parts) == 3 and parts[1] in _KINDS:
        return f"{parts[0]}/{parts[2]}"
    return type_name


def spelled(type_name: str, flavour: Flavour, kind: Literal["msg", "srv", "action"] = "msg") -> str:
    """The type string that a server of ``flavour`` uses."""
    name = plain_name(type_name)
    if flavour == "ros1":
        return f"{name}Action" if kind == "action" else name
    package, _, short = name.partition("/")
    return f"{package}/{kind}/{short}"


@functools.cache
def _texts() -> dict[str, str]:
    """All message texts, with those that services and actions bring along."""
    texts = dict(MESSAGES)
    for name, (request, response) in SERVICES.items():
        texts[f"{name}Request"], texts[f"{name}Response"] = request, response
    for name, (goal, result, feedback) in ACTIONS.items():
        texts |= {f"{name}Goal": goal, f"{name}Result": result, f"{name}Feedback": feedback}
        short = name.split("/")[1]
        # A client of ours may leave the header out, as roslibpy does; actionlib ignores it.
        texts[f"{name}ActionGoal"] = f"Header header?; actionlib_msgs/GoalID goal_id; {short}Goal goal"
        for part in ("Result", "Feedback"):
            texts[f"{name}Action{part}"] = (
                f"Header header; actionlib_msgs/GoalStatus status; {short}{part} {part.lower()}"
            )
    return texts


def known_types() -> tuple[str, ...]:
    """Every message type, sorted; services and actions appear as their parts."""
    return tuple(sorted(_texts()))


def _full(kind: str, package: str) -> str:
    if "/" in kind or kind in PRIMITIVES:
        return kind
    return "std_msgs/Header" if kind == "Header" else f"{package}/{kind}"


@functools.cache
def lookup(type_name: str, flavour: Flavour) -> Type:
    """The type of that name (either spelling); raises ``UnknownType``."""
    name = plain_name(type_name)
    texts = _texts()
    if name not in texts:
        raise UnknownType(f"unknown message type '{type_name}'" + did_you_mean(name, texts))
    package = name.split("/")[0]
    fields, constants = [], []
    for part in filter(None, (p.strip() for p in texts[name].split(";"))):
        only, _, text = part.rpartition(":")
        if only and only != flavour[-1]:
            continue
        if "=" in text:
            constants.append(text)
            continue
        kind, field_name = text.split()
        base, _, size = kind.partition("[")
        length = None if not size else int(size.rstrip("]") or 0)
        optional = field_name.endswith("?")
        field_name = field_name.rstrip("?")
        fields.append(Field(field_name, _full(base, package), length, optional, f"{kind} {field_name}"))
    return Type(name, tuple(fields), tuple(constants))


def message_text(type_name: str, flavour: Flavour = "ros1") -> str:
    """The type as a ``.msg`` file, which the generators of ROS read."""
    t = lookup(type_name, flavour)
    return "".join(f"{line}\n" for line in (*t.constants, *(f.text for f in t.fields)))


def ros1_checksum(type_name: str) -> str:
    """The MD5 sum by which ROS 1 compares types: nested types stand with their own sums, constants come first."""
    t = lookup(type_name, "ros1")
    lines = list(t.constants)
    for f in t.fields:
        lines.append(f.text if f.kind in PRIMITIVES else f"{ros1_checksum(f.kind)} {f.name}")
    return hashlib.md5("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


def has_text_list(type_name: str, flavour: Flavour) -> bool:
    """Whether the type holds a list of strings at any depth, which rosbridge's CBOR encoder cannot write."""
    fields = lookup(type_name, flavour).fields
    return any(
        (f.kind == "string" and f.length is not None) or (f.kind not in PRIMITIVES and has_text_list(f.kind, flavour))
        for f in fields
    )


def service_types(type_name: str) -> tuple[str, str]:
    """Names of the request and response messages of a service type; raises ``UnknownType``."""
    name = plain_name(type_name)
    if name not in SERVICES:
        raise UnknownType(f"unknown service type '{type_name}'" + did_you_mean(name, SERVICES))
    return f"{name}Request", f"{name}Response"


def action_name(type_name: str) -> str:
    """``package/Name`` of an action type in either spelling (ROS 1 adds ``Action``); raises ``UnknownType``."""
    name = plain_name(type_name)
    for candidate in (name, name.removesuffix("Action")):
        if candidate in ACTIONS:
            return candidate
    raise UnknownType(f"unknown action type '{type_name}'" + did_you_mean(name, ACTIONS))
