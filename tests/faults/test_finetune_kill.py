"""SIGKILL in collection, in updates, in saving: the resumed run is the uninterrupted one to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_anywhere_and_resumed_is_the_same_run(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    killer = Path(__file__).with_name("finetune_killer.py")
    done = subprocess.run([sys.executable, str(killer), str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(trials) == 16
    assert [t["moment"] for t in trials if t["died_of"] != signal.SIGKILL] == []
    for what in ("tensors", "replay", "curves", "kept"):
        assert [t["moment"] for t in trials if not t[what]] == [], what
    assert [t["moment"] for t in trials if t["left_over"]] == []
