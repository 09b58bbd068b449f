"""Sixty SIGKILLs around checkpoint saving: the newest complete checkpoint loads, and the resumed run is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PER_POINT, AT_RANDOM = 8, 12


@pytest.mark.slow
def test_sixty_kills(tmp_path):
    script = Path(__file__).with_name("checkpoint_killer.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(PER_POINT), str(AT_RANDOM)],
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(trials) == 6 * PER_POINT + AT_RANDOM == 60
    at_points = [t for t in trials if t["point"] is not None]
    assert Counter(t["point"] for t in at_points).most_common()[-1][1] == PER_POINT
    assert {t["died_of"] for t in at_points} == {9}
    assert [t for t in trials if not t["equal"]] == []
    assert [t for t in trials if t["left_over"]] == []  # what the dead left is swept by the resume
    assert len({t["resumed_from"] for t in trials}) >= 3  # the kills really fell on different saves
