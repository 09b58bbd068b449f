"""How many threads torch computes with: what the user set, else one a core, else one when others use the cores."""

from __future__ import annotations

import logging
import os

import torch

log = logging.getLogger(__name__)


def choose_threads(environ: dict[str, str] | None = None, load: float | None = None, cores: int | None = None) -> int:
    """Threads to use; the arguments stand in for the machine in tests.

    On a machine whose load exceeds its cores, two threads that wait for each other are slower than one.
    """
    env = os.environ if environ is None else environ
    if (given := env.get("OMP_NUM_THREADS", "")).isdigit() and int(given) > 0:
        return int(given)
    cores = cores or len(os.sched_getaffinity(0))
    busy = os.getloadavg()[0] if load is None else load
    return 1 if busy > cores else cores


def apply_threads() -> int:
    """Set torch's thread count by ``choose_threads`` and return it."""
    threads = choose_threads()
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    log.info("threads: %d (set OMP_NUM_THREADS to choose)", threads)
    return threads
