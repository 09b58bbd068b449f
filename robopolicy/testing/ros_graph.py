"""Real ROS graphs for tests: twin, gateway and guard as processes on ROS 1 of Debian or on ROS 2 of the pip wheels.

Everything listens on loopback only and ends with the ``with`` block.  ``ros1_graph`` and ``ros2_graph`` raise
``ConfigError`` with the commands that install what is missing; tests skip with that text.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.guard.pack import pack
from robopolicy.resources import resource_root

DEBIAN = Path("/usr/lib/python3/dist-packages")
SYSTEM_PYTHON = "/usr/bin/python3"
ROS1_HOW = (
    "ROS 1 of Debian 12 is not installed: apt-get install --no-install-recommends python3-rospy python3-rosmaster "
    "python3-std-msgs python3-sensor-msgs python3-geometry-msgs python3-std-srvs python3-actionlib python3-genpy "
    "python3-rosservice (Python 3.11 only)"
)
ROS2_HOW = (
    'ROS 2 is not installed: python3.11 -m venv .venv-ros2 && .venv-ros2/bin/pip install "ros-rclpy[fastrtps]==9.1.2" '
    "ros-std-msgs==5.5.1 ros-sensor-msgs==5.5.1 ros-geometry-msgs==5.5.1 ros-std-srvs==5.5.1 (or name another "
    "environment in ROBOPOLICY_ROS2)"
)
# The graph's packages come after our own on the path, so that they replace nothing.
BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from robopolicy.cli.main import main; sys.exit(main())"
START = 60.0  # s that a process may take until it is ready
# Fast DDS binds every interface unless told so; this leaves one transport, on loopback.
LOOPBACK_ONLY = """<?xml version="1.0" encoding="UTF-8" ?>
<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <transport_descriptors><transport_descriptor><transport_id>loopback</transport_id><type>UDPv4</type>
    <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList></transport_descriptor></transport_descriptors>
  <participant profile_name="loopback_only" is_default_profile="true"><rtps>
    <userTransports><transport_id>loopback</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports></rtps></participant>
</profiles>
"""


class Process:
    """A program whose output is kept; ``wait_for`` a line of it, ``end`` it."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str]) -> None:
        self.name, self.lines = name, list[str]()
        self._process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=resource_root()
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match of a line; raises ``ConfigError`` with the output if it does not come."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise ConfigError(f"{self.name} did not say '{pattern}': " + " | ".join(self.lines[-8:]))

    def kill(self) -> None:
        """At once, without a last word."""
        self._process.kill()
        self._process.wait(10)

    def end(self) -> None:
        """As an operator ends it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._thread.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Graph:
    """A running graph with the twin, the gateway at ``url`` and the guard."""

    def __init__(self, ros: str, env: dict[str, str], path: str, guard_python: str, folder: Path) -> None:
        self.ros, self._env, self._path, self._guard_python, self._folder = ros, env, path, guard_python, folder
        self.processes: list[Process] = []
        self.url = ""

    def start(self) -> None:
        """Twin, gateway, guard, in this order."""
        backend = "rospy" if self.ros == "ros1" else "rclpy"
        self.twin = self._run("twin", "twin", "--backend", backend, "--cameras")
        self.gateway = self._run("gateway", "bridge", "--backend", backend, "--port", "0", "--topics", "*")
        self.twin.wait_for("twin: an empty table")
        self.url = self.gateway.wait_for(r"ws://127\.0\.0\.1:\d+")[0]
        program = str(pack(self._folder / "guard.pyz"))
        self.guard = self.add("guard", [self._guard_python, program, "--ros", self.ros])
        self.guard.wait_for("guard: /robopolicy/target_pose")

    def _run(self, name: str, *argv: str) -> Process:
        return self.add(name, [sys.executable, "-c", BOOT, self._path, *argv])

    def add(self, name: str, argv: list[str]) -> Process:
        """One more process on this graph."""
        process = Process(name, argv, self._env)
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End all, last first."""
        for process in reversed(self.processes):
            process.end()


def _environment(**changes: str) -> dict[str, str]:
    quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "MUJOCO_GL": "egl"}
    return {k: v for k, v in os.environ.items() if not k.startswith("ROS_")} | quiet | changes


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def ros1_graph() -> Iterator[Graph]:
    """A master, the twin, the gateway and the guard on ROS 1; the guard on the system's own Python."""
    master = Path("/usr/bin/rosmaster")
    if not (DEBIAN / "rospy").is_dir() or not master.is_file() or sys.version_info[:2] != (3, 11):
        raise ConfigError(ROS1_HOW)
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), _free_port()
        env = _environment(
            ROS_MASTER_URI=f"http://127.0.0.1:{port}",
            ROS_IP="127.0.0.1",
            ROS_HOME=name,
            ROS_LOG_DIR=f"{name}/log",
            PYTHONPATH=f"{folder / 'messages'}",
        )
        make = "import sys; sys.path.append(sys.argv[1]); from robopolicy.testing.ros_messages import *\n"
        make += "make_ros1_messages(Path(sys.argv[2]))"
        subprocess.run(
            [sys.executable, "-c", make, str(DEBIAN), str(folder / "messages")],
            env=_environment(),
            cwd=resource_root(),
            check=True,
        )
        graph = Graph("ros1", env, str(DEBIAN), SYSTEM_PYTHON, folder)
        try:
            graph.add("master", [SYSTEM_PYTHON, str(master), "--core", "-p", str(port)])
            _answers(port)
            graph.start()
            yield graph
        finally:
            graph.stop()


def _answers(port: int) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise ConfigError("the ROS master did not start")


@contextlib.contextmanager
def ros2_graph() -> Iterator[Graph]:
    """The twin, the gateway and the guard on ROS 2, in an environment of their own for the wheels."""
    venv = Path(os.environ.get("ROBOPOLICY_ROS2") or resource_root() / ".venv-ros2")
    site = venv / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    if not (site / "rclpy").is_dir():
        raise ConfigError(ROS2_HOW)
    with tempfile.TemporaryDirectory() as name:
        profile = Path(name, "loopback.xml")
        profile.write_text(LOOPBACK_ONLY)
        env = _environment(
            RMW_IMPLEMENTATION="rmw_fastrtps_cpp",
            ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
            ROS_DOMAIN_ID=str(1 + os.getpid() % 100),
            ROS_LOG_DIR=f"{name}/log",
            FASTDDS_DEFAULT_PROFILES_FILE=str(profile),
            # What the wheels' start-up hook would set for an interpreter of their own environment.
            LD_LIBRARY_PATH=":".join((str(venv / "lib"), *map(str, sorted(site.glob("ros_*.libs"))))),
            _ROS_WHEELS_BOOTSTRAP_COMPLETE="1",
        )
        graph = Graph("ros2", env, str(site), str(venv / "bin" / "python"), Path(name))
        try:
            graph.start()
            yield graph
        finally:
            graph.stop()
