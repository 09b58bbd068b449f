"""The twin's own services: time in lock-step, another scene, faults, status.  A robot has none of them.

``/twin/step`` takes a number of ticks; the others take JSON text:
``/twin/reset`` ``{"seed": 3}``, ``/twin/fault`` ``{"name": "user_stop", "value": null, "seconds": 2}`` or
``{"clear": "user_stop"}`` or ``{"clear": null}``, ``/twin/recover`` and ``/twin/status`` nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import ConfigError, did_you_mean
from robopolicy.real_robot.wire.messages import Message

if TYPE_CHECKING:
    from robopolicy.real_robot.twin.ros import RosFace

OWNER = "/twin"
MOST_TICKS = 60_000  # a minute a call


def serve_twin(face: RosFace) -> None:
    """Offer the services on the face's bus."""
    twin, serve = face.twin, face.bus.serve

    def step(request: Message) -> Message:
        ticks = request["ticks"]
        if not twin.config.lock_step:
            return {"success": False, "message": "time runs by itself; start the twin with --lock-step", "time": 0.0}
        if not 1 <= ticks <= MOST_TICKS:
            return {"success": False, "message": f"expected 1 to {MOST_TICKS} ticks", "time": twin.time}
        face.advance(ticks)
        return {"success": True, "message": "", "time": twin.time}

    def reset(asked: dict[str, Any]) -> str:
        _only(asked, "seed")
        seed = asked.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ConfigError(f"seed: expected a whole number from 0, got {seed!r}")
        twin.reset(seed)
        return ""

    def fault(asked: dict[str, Any]) -> str:
        if "clear" in asked:
            _only(asked, "clear")
            twin.faults.clear(asked["clear"])
        else:
            _only(asked, "name", "value", "seconds")
            twin.faults.inject(str(asked.get("name", "")), asked.get("value"), asked.get("seconds"))
        return ", ".join(sorted(twin.faults.active))

    def recover(request: Message) -> Message:
        with twin.lock:
            why = twin.arm.recover()
        return {"success": not why, "message": why}

    def status(request: Message) -> Message:
        with twin.lock:
            return {"success": True, "message": json.dumps(twin.status)}

    serve("/twin/step", "robopolicy_msgs/Step", step, OWNER)
    serve("/twin/reset", "robopolicy_msgs/Text", _of_text(reset), OWNER)
    serve("/twin/fault", "robopolicy_msgs/Text", _of_text(fault), OWNER)
    serve("/twin/recover", "std_srvs/Trigger", recover, OWNER)
    serve("/twin/status", "std_srvs/Trigger", status, OWNER)


def _only(asked: dict[str, Any], *known: str) -> None:
    for key in asked:
        if key not in known:
            raise ConfigError(f"unknown key '{key}'" + did_you_mean(key, known))


def _of_text(handler: Callable[[dict[str, Any]], str]) -> Callable[[Message], Message]:
    def handle(request: Message) -> Message:
        try:
            asked = json.loads(request["data"] or "{}")
            if not isinstance(asked, dict):
                raise ConfigError("expected a JSON object")
            return {"success": True, "message": handler(asked)}
        except json.JSONDecodeError as e:
            return {"success": False, "message": f"no JSON: {e}"}
        except ConfigError as e:
            return {"success": False, "message": str(e)}

    return handle
