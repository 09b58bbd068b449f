"""Pages of results are what their generators make of the committed records: nobody edits a number by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "docs/results/heads.json"


def test_the_page_of_the_heads_is_generated_from_its_records(tmp_path):
    out = tmp_path / "heads.md"
    command = [sys.executable, "benchmarks/heads.py", "page", str(RECORDS), "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    assert out.read_text() == RECORDS.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_every_cell_has_at_least_a_hundred_episodes_and_its_seeds():
    cells = json.loads(RECORDS.read_text())["evaluations"]
    rollouts = {name: c for name, c in cells.items() if c["part"] != "adaptive"}
    assert len(rollouts) > 50
    for name, cell in rollouts.items():
        assert cell["n"] >= 100, name
        assert len(cell["successes"]) == len(cell["max_reward"]) == cell["n"], name
        assert cell["base_seed"] == 100_000, name
        assert cell["parameters"] > 0, name
