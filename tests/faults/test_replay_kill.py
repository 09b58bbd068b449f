"""SIGKILL in the middle of writing an episode: what was finished is there, the rest never happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_kills_at_every_file_and_at_random(tmp_path):
    script = Path(__file__).with_name("replay_killer.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    at_points = [t for t in trials if t["point"] is not None]
    assert len({t["point"] for t in at_points}) == 7  # two observations, action, latent, two of rewards, the list
    assert {t["died_of"] for t in at_points} == {9}
    for t in at_points:
        whole = t["point"] == "replay_episodes.jsonl" and not t["torn"]  # the line is in the file already
        assert t["kept"] == t["expected"] + whole, t
    assert [t for t in trials if not t.get("equal", True)] == []
