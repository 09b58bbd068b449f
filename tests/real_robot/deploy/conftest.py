"""Snapshots by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robopolicy.real_robot.control.observations import Frame, Snapshot
from robopolicy.real_robot.frames import Pose, downward


@pytest.fixture
def snapshot():
    """Two instants of a downward hand that turns, an object, and a camera of 8 x 10 pixels."""
    yaws = np.array((0.1, 0.2))
    picture = np.zeros((8, 10, 3), np.uint8)
    picture[..., 0] = 200  # red
    return Snapshot(
        time=5.0,
        poses=Pose(np.array(((0.4, 0.0, 0.2), (0.41, 0.0, 0.19))), -downward(yaws)),
        q=np.tile(np.arange(7.0), (2, 1)),
        force=np.zeros((2, 3)),
        width=np.array((0.08, 0.06)),
        frames={"front": [Frame(4.95, picture), Frame(5.0, picture)]},
        ages={},
        valid=np.array((True, True)),
        objects=np.array(((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
        object_names=("a", "b", "c"),
    )
