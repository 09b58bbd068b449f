"""Twins in lock-step, built once a module (a build takes a tenth of a second, a reset nothing)."""

from __future__ import annotations

import pytest

from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.twin import Twin


@pytest.fixture(scope="module")
def _empty():
    twin = Twin(TwinConfig(lock_step=True, cameras=()))
    yield twin
    twin.close()


@pytest.fixture
def twin(_empty):
    """An empty table, arm in its start pose, no bus."""
    _empty.faults.clear()
    _empty.reset(0)
    return _empty
