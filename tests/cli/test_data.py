"""`robopolicy data ...`: output, JSON, and exit codes 0, 1 and 2."""

from __future__ import annotations

import json

import pytest

from robopolicy.cli.main import main
from robopolicy.testing.datasets import make_tiny_dataset
from robopolicy.testing.recordings import record_toy


@pytest.fixture
def dataset(tmp_path):
    return record_toy(tmp_path / "toy")


def test_info_says_what_is_there(dataset, capsys):
    assert main(["data", "info", str(dataset)]) == 0
    out = capsys.readouterr().out
    assert "LeRobot v3.0, robot toy, 10 Hz" in out
    assert "3 episodes, 21 frames" in out
    assert "camera 64 x 48, h264 video" in out
    assert "4 float32: j0, j1, j2, j3 (rad)" in out
    assert "task: put cube 1 away (1 episodes)" in out
    assert main(["data", "info", str(dataset), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 21


def test_doctor_exit_codes(dataset, tmp_path, capsys):
    assert main(["data", "doctor", str(dataset)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    (dataset / "videos/observation.images.front/chunk-000/file-001.mp4").unlink()
    assert main(["data", "doctor", str(dataset), "--jitter"]) == 1
    out = capsys.readouterr().out
    assert "error [video-missing] episode 1: videos/observation.images.front/chunk-000/file-001.mp4" in out
    assert "mend: restore the file" in out
    assert "worst ms" in out
    assert main(["data", "doctor", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "info.json: missing" in err
    assert len(err.splitlines()) == 1


def test_doctor_json(dataset, capsys):
    (dataset / "meta/stats.json").unlink()
    assert main(["data", "doctor", str(dataset), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [f["code"] for f in report["findings"]] == ["stats-missing"]
    assert (report["episodes"], len(report["jitter"])) == (3, 3)


def test_doctor_repairs_and_then_is_clean(dataset, capsys):
    (dataset / "meta/stats.json").unlink()
    assert main(["data", "doctor", str(dataset), "--repair"]) == 0
    assert "wrote meta/stats.json" in capsys.readouterr().out


def test_many_findings_of_a_kind_are_counted(tmp_path, capsys):
    root = make_tiny_dataset(tmp_path / "d", "v2.1", episodes=8, length=6)
    for path in root.rglob("*.mp4"):
        path.unlink()
    assert main(["data", "doctor", str(root)]) == 1
    assert "... 3 more of this kind in 8 episodes" in capsys.readouterr().out


def test_convert_and_view(tmp_path, capsys):
    src = make_tiny_dataset(tmp_path / "old", "v2.1", episodes=2, length=6)
    assert main(["data", "convert", str(src), str(tmp_path / "new")]) == 0
    assert "2 episodes, 12 frames; every number verified by hash" in capsys.readouterr().out
    assert main(["data", "convert", str(src), str(tmp_path / "new")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "view", str(tmp_path / "new"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert main(["data", "view", str(tmp_path / "new"), "--rerun", "--out", str(tmp_path / "r.rrd")]) == 0
    assert (tmp_path / "r.rrd").stat().st_size > 1000


def test_help_names_every_sub_verb(capsys):
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    out = capsys.readouterr().out
    assert all(f"robopolicy data {verb}" in out for verb in ("info", "doctor", "convert", "view"))
