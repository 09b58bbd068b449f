"""The Rerun recording of a run."""

from __future__ import annotations

import sys

import pytest

from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.report.series import series_of
from robopolicy.real_robot.report.to_rerun import write_recording


def test_a_recording_holds_motion_curves_and_events(logged, tmp_path):
    pytest.importorskip("rerun")
    out = write_recording(series_of(logged), tmp_path / "deep" / "run.rrd")
    data = out.read_bytes()
    assert data.startswith(b"RRF2")
    for name in (b"/world/measured/tool", b"/position/x/emitted", b"/speed/emitted", b"/events"):
        assert name in data


def test_without_rerun_one_line_says_how_to_get_it(logged, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigError, match="pip install rerun-sdk"):
        write_recording(series_of(logged), tmp_path / "run.rrd")
