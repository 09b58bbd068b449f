"""A twin behind a gateway in a process of its own, for tests of the control process on busy machines.

Says its address in its first line of output; then answers each line of input with one line of JSON.  ``report``: the
commands heard since the last report (arrival and stamp in seconds, position), who publishes them, the clients, and
where the tool is.  ``fault NAME JSON SECONDS``: a fault of the twin.  Ends with its input.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from robopolicy.real_robot.driver.realtime import claim_priority
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.ros import CONTROLLER
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.real_robot.wire.messages import seconds_of


def say(line: str) -> None:
    """A line of output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run until the input ends."""
    # The robot's side must not be late because the tests' machine is busy; nor may it be in the control process's way.
    claim_priority(10)
    sys.setswitchinterval(0.0005)
    cameras = ("front",) if "--camera" in sys.argv else ()
    config = TwinConfig(cameras=cameras, image_size=(96, 128))
    with running_twin(config, GatewayConfig(port=0)) as (runner, gateway):
        twin = runner.twin
        assert twin.face is not None
        bus, topic = twin.face.bus, twin.face.names.command
        heard: list[list[Any]] = []
        lock = threading.Lock()

        def hear(message: Mapping[str, Any]) -> None:
            p = message["pose"]["position"]
            with lock:
                heard.append([time.monotonic(), seconds_of(message["header"]["stamp"]), [p["x"], p["y"], p["z"]]])

        bus.subscribe(topic, "geometry_msgs/PoseStamped", hear, owner=CONTROLLER)
        say(gateway.url)
        for line in sys.stdin:
            what, *words = line.split(maxsplit=3)
            if what == "fault":
                twin.faults.inject(words[0], json.loads(words[1]), float(words[2]))
            with lock:
                told, heard[:] = list(heard), []
            answer = {
                "commands": told,
                "publishers": bus.publishers(topic),
                "clients": gateway.clients,
                "tool": twin.pose.position.tolist(),
                "now": time.monotonic(),
            }
            say(json.dumps(answer))


if __name__ == "__main__":
    main()
