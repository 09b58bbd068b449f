"""The grid of deadlines on a clock turned by hand, priorities, and the collector."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from robopolicy.real_robot.driver.realtime import Grid, Lateness, one_thread

PERIOD = 0.01


def run(stalls: dict[int, float], ticks: int = 30, work: float = 0.002) -> tuple[list[float], Grid]:
    """When ``ticks`` ticks begin, of which some take longer: index -> seconds."""
    grid, now, began, starts = Grid(PERIOD), 5.0, 5.0, []
    for i in range(ticks):
        now = began = max(now, grid.next(now, began))
        starts.append(began)
        now += stalls.get(i, work)
    return starts, grid


def test_the_beat_is_absolute_and_does_not_drift():
    starts, grid = run({})
    assert starts == pytest.approx([5.0 + PERIOD * i for i in range(30)])
    assert grid.skipped == 0
    starts, grid = run({3: 0.0104})  # a little too long: the next tick is 0.4 ms late, the one after it is not
    assert starts[4] == pytest.approx(5.0404)
    assert starts[5] == pytest.approx(5.05)
    assert grid.skipped == 0


@pytest.mark.parametrize("stall", [0.0149, 0.0151, 0.0199, 0.0201, 0.05, 0.1, 0.1234, 0.2, 1.0])
def test_F24_no_burst_follows_a_late_tick(stall):
    starts, grid = run({5: stall, 20: stall})
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert min(gaps) >= 0.5 * PERIOD - 1e-9
    assert sum(g < PERIOD - 1e-9 for g in gaps) <= 2  # one shorter step back onto the beat, each time
    assert gaps[5] == pytest.approx(stall, abs=0.5 * PERIOD)
    beats = [(s - 5.0) / PERIOD for s in starts[7:]]
    assert beats[3] == pytest.approx(round(beats[3]))  # on the old beat again
    assert grid.skipped == round((starts[-1] - 5.0) / PERIOD) - 29
    assert grid.skipped >= 2 * int(stall / PERIOD - 1.5)


def test_lateness_is_ranked_and_the_worst_is_kept():
    late = Lateness()
    assert late.percentiles() == (0.0, 0.0)
    late.add(0.5)
    for i in range(1000):
        late.add(i * 1e-6)
    assert late.percentiles() == (500e-6, 990e-6)
    assert late.worst == 0.5


def test_priority_is_claimed_or_a_warning_says_how_to_allow_it():
    code = (
        "import resource, os, sys; from robopolicy.real_robot.driver.realtime import claim_priority\n"
        "if sys.argv[1] == 'refuse':\n"
        "    def no(*a): raise PermissionError\n"
        "    os.sched_setscheduler = no\n"
        "what, warning = claim_priority()\n"
        "print(what, '|', warning, '|', os.sched_getscheduler(0) == os.SCHED_RR)"
    )
    said = [
        subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True).stdout.strip()
        for how in ("", "refuse")
    ]
    what, warning, is_rr = said[0].split(" | ")
    assert (what == "SCHED_RR 20") == (is_rr == "True") == (warning == "None")
    what, warning, is_rr = said[1].split(" | ")
    assert what.startswith("nice ")
    assert is_rr == "False"
    assert "limits.conf" in warning
    assert "\n" not in warning


def test_F43_the_collector_never_comes_by_itself_and_fully_only_at_rest():
    code = (
        "import gc, sys; from robopolicy.real_robot.driver.realtime import Housekeeping\n"
        "now = [0.0]; house = Housekeeping(lambda: now[0]); house.begin()\n"
        "seen = []; gc.callbacks.append(lambda phase, info: phase == 'start' and seen.append(info['generation']))\n"
        "def loop(seconds, moving, slack):\n"
        "    for _ in range(int(seconds * 100)):\n"
        "        now[0] += 0.01; x = []; x.append(x); house.between(now[0], slack, moving)\n"
        "loop(30, True, 0.008); moving = list(seen); seen.clear()\n"
        "loop(30, True, 0.001); busy = list(seen); seen.clear()\n"
        "loop(30, False, 0.008); rest = list(seen)\n"
        "facts = house.facts()\n"
        "print(set(moving), len(moving) in (29, 30), busy, set(rest), len(rest), facts['automatic'], "
        "facts['frozen'] > 1000)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.strip() == "{0} True [] {2} 6 False True", said.stderr


def test_numbers_use_one_thread():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    assert one_thread({"OMP_NUM_THREADS": "8", "HOME": "/h"}) == {**dict.fromkeys(names, "1"), "HOME": "/h"}
