"""doctor: every probe runs apart, crashes become findings, and every finding says how to mend it."""

from __future__ import annotations

import json

import pytest

from robopolicy.cli._probes import PROBES, Probe, run_probe
from robopolicy.cli.main import main


def test_crash_and_missing_package_become_one_line_findings():
    crash = run_probe(Probe("sim", "crasher", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "mend it"))
    assert (crash.status, crash.detail, crash.mend) == ("missing", "crashed with SIGSEGV", "mend it")
    absent = run_probe(Probe("sim", "absent", "import no_such_package", "pip install it"))
    assert absent.status == "missing"
    assert "no_such_package" in absent.detail
    hang = run_probe(Probe("sim", "hang", "import time; time.sleep(60)", "wait"), timeout_s=0.5)
    assert "no answer" in hang.detail


def test_every_probe_has_a_mend():
    assert all(p.mend for p in PROBES)


def test_data_group_works_here_and_json_is_json(capsys):
    assert main(["doctor", "--only", "data", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {f["name"] for f in findings} == {"parquet", "video", "zarr", "HDF5"}
    assert all(f["status"] == "ok" for f in findings)


def test_unknown_group_is_refused(capsys):
    assert main(["doctor", "--only", "simm"]) == 2
    assert "did you mean 'sim'" in capsys.readouterr().err


@pytest.mark.slow
def test_everything_works_in_the_locked_environment(capsys):
    assert main(["doctor"]) in (0, 1)
    out = capsys.readouterr().out
    assert "MISSING" not in out, out
