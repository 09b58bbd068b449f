"""Which OpenGL backend can draw without a window here: EGL, else OSMesa, found out once in a throw-away process.

A wrong choice does not raise, it kills or hangs the process, so the probe runs in a child.  The choice is put into
``MUJOCO_GL``, where MuJoCo and every child process find it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import Any

from robopolicy.core.errors import EnvUnavailable

log = logging.getLogger(__name__)

BACKENDS = ("egl", "osmesa")
APT = "apt-get install -y libegl1 libopengl0 libgl1-mesa-dri"
_PROBE = """
import os, sys
os.environ["MUJOCO_GL"] = sys.argv[1]
import numpy as np, mujoco
m = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size="1" rgba="1 1 1 1"/></worldbody></mujoco>')
d = mujoco.MjData(m)
mujoco.mj_forward(m, d)
r = mujoco.Renderer(m, 16, 16)
r.update_scene(d)
ok = r.render().any()
r.close()
sys.exit(0 if ok else 3)
"""


def probe(backend: str, timeout: float = 60.0) -> str:
    """Empty if ``backend`` draws a test picture in a child process, else the last line of what went wrong."""
    env = {**os.environ, "MUJOCO_GL": backend}
    try:
        run = subprocess.run(
            [sys.executable, "-c", _PROBE, backend],
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {timeout:.0f} s"
    if run.returncode == 0:
        return ""
    return (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]


def choose_backend() -> str:
    """The backend in use; probes on the first call unless ``MUJOCO_GL`` says which.

    Raises:
        EnvUnavailable: none works; the message has the packages to install.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen in BACKENDS:
        return chosen
    reasons = []
    for backend in BACKENDS:
        reason = probe(backend)
        if not reason:
            os.environ["MUJOCO_GL"] = backend
            log.info("rendering with MUJOCO_GL=%s", backend)
            return backend
        reasons.append(f"{backend}: {reason}")
    raise EnvUnavailable(f"no OpenGL backend can draw here ({'; '.join(reasons)}); run: {APT}")


def make_context(width: int, height: int) -> Any:
    """A current GL context of the chosen backend (needs no window); free it with its ``free()``."""
    if choose_backend() == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    context = GLContext(width, height)
    context.make_current()
    return context
