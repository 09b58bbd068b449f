"""Shared fixtures: where the real datasets are, one torch thread, and what this machine can do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from robopolicy.core.scheduling import kept_scheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A busy machine is no fault of the code: nothing here is judged by the clock.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _ordinary_scheduling():
    """LeRobot's writer (SVT-AV1 under root) makes its process a real-time one for good, which starves all others."""
    with kept_scheduling():
        yield


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real datasets beside the checkout; skips, saying so, where there is none."""
    path = Path(os.environ.get("ROBOPOLICY_SHARED", ROOT.parent / "shared")) / "data"
    if not path.is_dir():
        pytest.skip(f"no real datasets at {path} (set ROBOPOLICY_SHARED to the folder that holds data/)")
    return path


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """Paths of chromium and chromedriver; skips where they are not installed."""
    paths = shutil.which("chromium"), shutil.which("chromedriver")
    if None in paths:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    return paths
