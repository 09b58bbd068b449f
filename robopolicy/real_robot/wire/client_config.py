"""Settings of the client, and which addresses it is willing to talk to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from robopolicy.core.configs import config_dataclass
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.wire.gateway_config import is_loopback

Resolver = Callable[[str], list[str]]


@config_dataclass
class ClientConfig:
    """How to reach the bridge, and the time-outs of the link (seconds)."""

    url: str = "ws://127.0.0.1:9090"
    """Address of rosbridge or of this project's gateway; loopback, or a host in ``allowed_hosts``."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts other than this machine that may be connected to."""
    token_file: Path | None = None
    """File with the token of the gateway."""
    flavour: Literal["auto", "ros1", "ros2"] = "auto"
    """ROS version of the server; ``auto`` asks it for the time and looks at the stamp."""
    ping_interval: float = 0.25
    """Between two pings."""
    ping_timeout: float = 0.25
    """After which a missing answer means that the link is down."""
    handshake_timeout: float = 2.0
    """For the connection and its handshake."""
    send_deadline: float = 0.02
    """A message that the socket has not taken by then is discarded, not sent late."""
    service_timeout: float = 1.0
    """For a service call, unless the call says otherwise."""
    reconnect_first: float = 0.25
    """Before the first new attempt; it doubles up to the ceiling."""
    reconnect_ceiling: float = 4.0
    """Longest wait between attempts."""
    bad_frames_a_second: int = 20
    """Frames a second that cannot be read, above which the link counts as faulty."""
    loopback_soft: float = 0.15
    """Age of the oldest unconfirmed command that raises a warning."""
    loopback_hard: float = 0.30
    """Age at which the socket is dropped."""
    seed: int = 0
    """Of the 10 % jitter of the reconnect delays."""

    def __post_init__(self) -> None:
        for name in ("ping_interval", "ping_timeout", "handshake_timeout", "send_deadline", "service_timeout"):
            if not 0 < getattr(self, name) <= 30:
                raise ConfigError(f"{name}: must be in (0, 30] s, got {getattr(self, name)}")
        if not 0 < self.reconnect_first <= self.reconnect_ceiling <= 60:
            raise ConfigError("reconnect_first and reconnect_ceiling: 0 < first <= ceiling <= 60 s")
        if not 0 < self.loopback_soft <= self.loopback_hard <= 1:
            raise ConfigError("loopback_soft and loopback_hard: 0 < soft <= hard <= 1 s")
        check_url(self.url, self.allowed_hosts)


def check_url(url: str, allowed_hosts: tuple[str, ...] = ()) -> str:
    """The host of a usable address; raises ``ConfigError`` for a scheme, host or port that is not.

    Loopback is always fine; any other host must be in ``allowed_hosts``, and a public address needs ``wss``: the
    protocol has no protection of its own, so whoever reads the traffic can also move the robot.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as e:
        raise ConfigError(f"url {url}: {e}") from None
    if parts.scheme not in ("ws", "wss") or not host or port == 0 or parts.username or parts.fragment:
        raise ConfigError(f"url {url}: expected ws://HOST:PORT")
    if is_loopback(host):
        return host
    if host not in allowed_hosts:
        raise ConfigError(
            f"url {url}: {host} is not this machine; add it to allowed_hosts, or use a tunnel: "
            f"ssh -L 9090:localhost:9090 {host}"
        )
    if parts.scheme == "ws" and _is_public(host):
        raise ConfigError(f"url {url}: plain ws to a public address; use wss, or an ssh tunnel to a loopback address")
    return host


def check_resolved(url: str, resolve: Resolver | None = None) -> None:
    """Refuse plain ``ws`` to a name that stands for a public address (looked up now); raises ``ConfigError``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "wss" or is_loopback(host):
        return
    try:
        found = (resolve or _resolve)(host)
    except OSError:
        return
    if public := [a for a in found if _is_public(a)]:
        raise ConfigError(f"url {url}: {host} is {public[0]}, a public address; use wss, or an ssh tunnel")


def warnings_of(url: str) -> list[str]:
    """What ``doctor`` says about an address that is allowed but not local."""
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        return []
    return [
        f"{host} is not loopback: rosbridge of ROS 1 listens on every interface whatever its address option says, "
        "and its auth op is no protection; put it behind a firewall or an ssh tunnel"
    ]


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _resolve(host: str) -> list[str]:
    return sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None)})
