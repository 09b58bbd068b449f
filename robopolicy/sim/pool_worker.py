"""Entry point of a pool worker: a fresh interpreter that runs environments and never imports torch.

Started as its own program rather than through ``multiprocessing``, so the user's main module is not imported again
(it may import torch, and needs no ``if __name__`` guard), and environment variables are set before any import.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

# Rendering and BLAS threads of several workers would fight for the same cores (specs: two workers scale linearly).
THREAD_LIMITS = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
BOOT = "import sys; from robopolicy.sim.pool_worker import main; main(int(sys.argv[1]))"


def worker_environment() -> dict[str, str]:
    """Environment variables of a worker: thread limits, and the parent's import path at the end."""
    package_root = str(Path(__file__).resolve().parents[2])
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {
        **os.environ,
        **THREAD_LIMITS,
        "PYTHONPATH": os.pathsep.join([*path, package_root]),
        "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    }


def spawn_worker(child_fd: int, boot: str = BOOT) -> subprocess.Popen[bytes]:
    """Start a worker that talks over the inherited socket ``child_fd``; ``boot`` is the program it runs."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", boot, str(child_fd)],
        pass_fds=[child_fd],
        env=worker_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # simulators greet on stdout, which belongs to the command line
    )


def main(fd: int) -> None:
    """Serve commands until the parent goes away: the first message is ``(EnvConfig, sys.path, depot)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; its end closes the socket
    connection = Connection(fd)
    config, path, depot = connection.recv()
    sys.path.extend(p for p in path if p not in sys.path)

    from robopolicy.sim.pool_parcels import pack
    from robopolicy.sim.pool_slots import SlotRunner

    runner = SlotRunner(config)
    try:
        while True:
            connection.send(pack(runner.handle(connection.recv()), depot))
    except (EOFError, OSError):
        runner.close()
        shutil.rmtree(depot, ignore_errors=True)  # a parent that was killed could not
