"""Every package of the project's card lives in one environment, and robosuite's Lift runs in it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import warnings
warnings.simplefilter("ignore")
import cv2, diffusers, einops, lerobot, mujoco, numpy, robomimic, robosuite, torch, zarr
from lerobot.datasets.lerobot_dataset import LeRobotDataset
assert int(numpy.__version__.split(".")[0]) >= 2, numpy.__version__
env = robosuite.make("Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False,
                     hard_reset=False, horizon=20, seed=0)
obs = env.reset()
start = obs["robot0_eef_pos"].copy()
for _ in range(5):
    obs, reward, done, info = env.step(numpy.array([0, 0, -1.0, 0, 0, 0, -1]))
assert obs["robot0_eef_pos"][2] < start[2] - 0.02, (start, obs["robot0_eef_pos"])
assert numpy.isfinite(obs["object-state"]).all()
env.close()
print("card ok", torch.__version__, mujoco.__version__, robosuite.__version__)
"""


@pytest.mark.slow
def test_card_packages_import_together_and_lift_steps():
    env = {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=400, env=env, check=False
    )
    assert "card ok" in run.stdout, run.stderr[-2000:]
