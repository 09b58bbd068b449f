"""Give threads their ordinary scheduling back after a library has raised them to real time.

Found with SVT-AV1 2.3 and 3.0 (PyAV's ``libsvtav1``, the default encoder of LeRobot 0.4): started by root or with
CAP_SYS_NICE, it puts the thread that opens it and every thread of its own under SCHED_FIFO at priority 99, for good,
and children inherit that.  Such a process starves all others: an arm's control loop asks for SCHED_RR at 20.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TASKS = Path("/proc/self/task")


def real_time_threads() -> set[int]:
    """Identifiers of this process's threads under SCHED_FIFO or SCHED_RR; none where the system does not tell."""
    found = set()
    with contextlib.suppress(AttributeError, OSError):
        raised = (os.SCHED_FIFO, os.SCHED_RR)
        for task in map(int, os.listdir(TASKS)):
            with contextlib.suppress(OSError):  # it has ended
                if os.sched_getscheduler(task) & ~os.SCHED_RESET_ON_FORK in raised:
                    found.add(task)
    return found


def make_ordinary(threads: set[int]) -> int:
    """Put ``threads`` under SCHED_OTHER; how many were."""
    changed = 0
    for task in threads:
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(task, os.SCHED_OTHER, os.sched_param(0))
            changed += 1
    return changed


@contextlib.contextmanager
def kept_scheduling() -> Iterator[None]:
    """Threads that were not real-time before the block are not after it."""
    before = real_time_threads()
    try:
        yield
    finally:
        make_ordinary(real_time_threads() - before)
