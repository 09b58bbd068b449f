"""The LeRobot plug-ins, found by LeRobot's own mechanism; the robot drives the twin, the policy acts as ours does."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("lerobot", reason="LeRobot is not installed: pip install 'robopolicy[lerobot]'")

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy, make_policy_config, make_pre_post_processors
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins

from robopolicy.cli.main import main
from robopolicy.core.errors import CheckpointError, ConfigError, RequestRefused
from robopolicy.core.specs import ActionSpace, ActionSpec
from robopolicy.lerobot_plugin.configuration_robopolicy import RobopolicyConfig
from robopolicy.lerobot_plugin.wheels import PLUGINS, install, uninstall
from robopolicy.policies.io import save_policy
from robopolicy.real_robot.clock import VirtualClock
from robopolicy.real_robot.control.states import State
from robopolicy.real_robot.twin.config import TwinConfig
from robopolicy.real_robot.twin.runner import running_twin
from robopolicy.real_robot.wire.gateway_config import GatewayConfig
from robopolicy.testing.lock_step import LockStep
from robopolicy.testing.tiny import random_observation, tiny_policy

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """Installed into a folder of the path, as pip does, and found by LeRobot."""
    site = tmp_path_factory.mktemp("site")
    assert main(["lerobot", "install", "--site", str(site)]) == 0
    sys.path.append(str(site))
    register_third_party_plugins()
    yield site
    sys.path.remove(str(site))


# -- found -------------------------------------------------------------------------------------------------------------


def test_lerobot_finds_robot_and_policy_by_their_distributions(plugins):
    assert "robopolicy_franka" in RobotConfig.get_known_choices()
    assert "robopolicy" in PreTrainedConfig.get_known_choices()
    for name in PLUGINS:
        assert name in sys.modules
        found = importlib.metadata.Distribution.discover(name=name, path=[str(plugins)])
        assert [d.metadata["Name"] for d in found] == [name]


@pytest.mark.slow
def test_a_fresh_interpreter_knows_them_only_when_they_are_installed(plugins, tmp_path):
    probe = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from lerobot.utils.import_utils import register_third_party_plugins as register\n"
        "from lerobot.robots import RobotConfig\n"
        "register(); print('robopolicy_franka' in RobotConfig.get_known_choices())"
    )
    for site, known in ((plugins, "True"), (tmp_path, "False")):
        done = subprocess.run([sys.executable, "-c", probe, str(site)], capture_output=True, text=True)
        assert done.stdout.strip() == known, done.stderr


def test_install_is_repeatable_and_leaves_nothing_behind(tmp_path):
    install(tmp_path)
    install(tmp_path)
    assert len(list(tmp_path.glob("*.dist-info"))) == 2
    assert uninstall(tmp_path) == 2
    assert [p.name for p in tmp_path.iterdir()] == []


def test_the_wheels_are_what_pip_installs(tmp_path):
    pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True)
    if pip.returncode:
        pytest.skip("this environment has no pip")
    assert main(["lerobot", "wheels", str(tmp_path / "dist")]) == 0
    wheels = [str(p) for p in (tmp_path / "dist").glob("*.whl")]
    how = ["--no-index", "--no-deps", "--no-compile", "--target", str(tmp_path / "site")]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *how, *wheels], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [d.metadata["Name"] for d in importlib.metadata.distributions(path=[str(tmp_path / "site")])]
    assert sorted(names) == sorted(PLUGINS)


# -- the robot ---------------------------------------------------------------------------------------------------------


class Rig:
    """A twin in lock-step, and LeRobot's robot on the same clock."""

    def __init__(self, url, clock, runner, **options):
        kind = RobotConfig.get_choice_class("robopolicy_franka")
        self.runner, self.clock = runner, clock
        self.robot = make_robot_from_config(kind(id="test", url=url, **options))
        self.robot._make = self.make
        self.robot.wait = self.wait

    def make(self):
        self.lock_step = LockStep(self.runner, self.robot.bridge, self.clock)
        return self.lock_step.driver

    def wait(self, seconds):
        self.lock_step.step(seconds)


@pytest.fixture
def rig(plugins, tmp_path, request):
    clock = VirtualClock()
    twin = TwinConfig(lock_step=True, image_size=(48, 64), cameras=("front",))
    options = {"arm": True, "operator": "tester", "calibration_dir": tmp_path, **getattr(request, "param", {})}
    preset = tmp_path / "robot.yaml"
    preset.write_text("cameras: {front: {size: [48, 64], fps: 10}}\ndead_man: false\n")
    with running_twin(twin, GatewayConfig(port=0), clock) as (runner, gateway):
        made = Rig(gateway.url, clock, runner, preset=str(preset), **options)
        made.robot._ask = lambda words: "ARM"
        yield made
        made.robot.disconnect()


@pytest.mark.render
def test_the_robot_connects_sees_moves_and_leaves(rig):
    robot = rig.robot
    assert not robot.is_connected
    assert robot.observation_features == {
        **dict.fromkeys(("tcp_x", "tcp_y", "tcp_z", "tcp_yaw", "gripper_width"), float),
        "front": (48, 64, 3),
    }
    assert robot.action_features == dict.fromkeys(("x", "y", "z", "yaw", "gripper"), float)
    robot.connect()
    assert robot.is_connected
    assert robot.driver.status().state is State.ARMED
    rig.wait(2.0)  # as long as LeRobot takes to begin; nothing moves meanwhile

    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features)
    pose = rig.runner.twin.pose.position
    assert [seen["tcp_x"], seen["tcp_y"], seen["tcp_z"]] == pytest.approx(pose.tolist(), abs=2e-3)
    assert seen["front"].shape == (48, 64, 3)
    assert seen["front"].dtype == np.uint8

    begun, emitted = dict(seen), []
    for k in range(1, 21):
        wish = {"x": begun["tcp_x"] + 0.004 * k, "y": begun["tcp_y"], "z": begun["tcp_z"], "yaw": 0.0, "gripper": 1.0}
        emitted.append(robot.send_action(wish))
        rig.wait(0.1)
    moved = rig.runner.twin.pose.position[0] - begun["tcp_x"]
    assert 0.03 < moved < 0.08
    # What comes back is what was published, not what was asked for.
    steps = np.diff([e["x"] for e in emitted])
    assert (steps < 0.0101).all()  # 0.1 m/s for 0.1 s
    assert emitted[-1]["x"] - begun["tcp_x"] == pytest.approx(0.08, abs=0.03)
    assert set(emitted[-1]) == set(robot.action_features)
    robot.disconnect()
    assert not robot.is_connected


@pytest.mark.render
def test_a_jump_is_not_followed_and_the_answer_says_where_the_setpoint_is(rig):
    robot = rig.robot
    robot.connect()
    here = robot.get_observation()
    far = {"x": here["tcp_x"] + 0.3, "y": here["tcp_y"], "z": here["tcp_z"], "yaw": 0.0, "gripper": 1.0}
    for _ in range(2):
        answer = robot.send_action(far)
        rig.wait(0.1)
    assert abs(answer["x"] - here["tcp_x"]) < 0.02
    assert rig.runner.twin.pose.position[0] - here["tcp_x"] < 0.02


@pytest.mark.render
@pytest.mark.parametrize("rig", [{}, {"resume_after_pause": True}], indirect=True, ids=["by hand", "by itself"])
def test_after_a_pause_the_arm_holds_and_resumes_as_was_asked_for(rig):
    robot = rig.robot
    robot.connect()
    here = robot.get_observation()
    wish = {"x": here["tcp_x"], "y": here["tcp_y"], "z": here["tcp_z"], "yaw": 0.0, "gripper": 1.0}
    robot.send_action(wish)
    rig.wait(1.6)
    assert robot.driver.status().state is State.HOLD
    if not robot.config.resume_after_pause:
        with pytest.raises(RequestRefused, match="state hold"):
            robot.send_action(wish)
        robot.driver.resume()
        rig.wait(0.02)
    robot.send_action(wish)
    rig.wait(0.02)
    assert robot.driver.status().state is State.RUNNING
    robot.driver.pause()
    with pytest.raises(RequestRefused, match="paused by the operator"):
        robot.send_action(wish)


@pytest.mark.render
@pytest.mark.parametrize("rig", [{"arm": False, "operator": ""}], indirect=True)
def test_by_default_the_arm_is_only_watched(rig):
    rig.robot.connect()
    seen = rig.robot.get_observation()
    with pytest.raises(RequestRefused, match="nothing is sent"):
        rig.robot.send_action(dict.fromkeys(rig.robot.action_features, seen["tcp_x"]))


@pytest.mark.render
@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="scheduling classes of Linux")
def test_a_recorder_that_made_this_process_real_time_does_not_outrank_the_control_process(rig):
    rig.robot.connect()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pytest.skip("no right to real-time scheduling here")
    rig.robot.get_observation()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.render
def test_arming_that_is_not_confirmed_moves_nothing(rig):
    rig.robot._ask = lambda words: "no"
    with pytest.raises(RequestRefused, match="not confirmed"):
        rig.robot.connect()
    assert not rig.robot.is_connected


def test_wrong_settings_and_actions_are_told(plugins, tmp_path):
    kind = RobotConfig.get_choice_class("robopolicy_franka")
    with pytest.raises(ConfigError, match="stop device"):
        kind(arm=True)
    with pytest.raises(ConfigError, match="fps"):
        kind(fps=1000.0)
    with pytest.raises(ValueError, match="in_process is for the twin"):
        make_robot_from_config(kind(preset="panda_serl", in_process=True, calibration_dir=tmp_path))
    robot = make_robot_from_config(kind(rotation="quaternion", calibration_dir=tmp_path))
    assert tuple(robot.action_features) == ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper")
    with pytest.raises(ConfigError, match="expected x, y, z, qx"):
        robot.send_action({"x": 0.0})
    with pytest.raises(ConfigError, match="finite"):
        robot.send_action(dict.fromkeys(robot.action_features, float("nan")))


# -- the policy --------------------------------------------------------------------------------------------------------

SHAPES = {"observation.state": 4, "action": 3}
SPACE = ActionSpace(3, low=(-1.0,) * 3, high=(1.0,) * 3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    policy = tiny_policy(4, {"front": (16, 16)}, SPACE, horizon=8, n_obs_steps=2, n_action_steps=3)
    return save_policy(policy, tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def exported(plugins, checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    assert main(["lerobot", "export", str(checkpoint), str(out)]) == 0
    return out


def batches(policy, n, rows=1):
    """LeRobot's batches of n consecutive observations, and the histories that ours is given."""
    seen = random_observation(policy, rows * (n + 1))
    single = [{k: torch.as_tensor(v[i * rows : (i + 1) * rows, -1]) for k, v in seen.items()} for i in range(n)]
    for batch in single:
        batch["observation.images.front"] = batch["observation.images.front"].float() / 255
    return single


def test_parity_select_action_is_what_our_own_act_gives(exported):
    import robopolicy

    ours = robopolicy.load(exported / "robopolicy")
    policy = get_policy_class("robopolicy").from_pretrained(exported)
    steps = batches(ours, 7, rows=2)
    torch.manual_seed(3)
    theirs = [policy.select_action(dict(b)) for b in steps]
    torch.manual_seed(3)
    expected = []
    for k in (0, 3, 6):  # a new chunk every three actions
        pair = [steps[max(k - 1, 0)], steps[k]]
        obs = {key: torch.stack([b[key] for b in pair], dim=1) for key in steps[0]}
        expected += list(torch.from_numpy(ours.act(obs).executable).unbind(1))
    assert len(theirs) == 7
    for a, b in zip(theirs, expected, strict=False):
        assert a.shape == (2, 3)
        assert torch.equal(a, b)


def test_parity_chunks_with_a_seed_and_with_whole_histories(exported):
    import robopolicy

    ours = robopolicy.load(exported / "robopolicy")
    config = PreTrainedConfig.from_pretrained(exported, cli_overrides=["--seed=5"])
    policy = get_policy_class("robopolicy").from_pretrained(exported, config=config)
    obs = random_observation(ours, 2)
    keys = policy.noise_keys(2)
    chunk = policy.predict_action_chunk({k: torch.as_tensor(v) for k, v in obs.items()})
    assert chunk.shape == (2, 3, 3)
    assert torch.equal(chunk, torch.from_numpy(ours.act(obs, noise_keys=keys).executable))
    policy.reset()
    assert policy.noise_keys(2) != keys  # another episode, other noise
    assert policy.predict_action_chunk(batches(ours, 1)[0]).shape == (1, 3, 3)


@pytest.mark.parametrize("count", [1, 5, 7])  # 3 in training; 8 less one past step is 7
def test_the_number_of_executed_actions_is_the_users(exported, count):
    import robopolicy

    ours = robopolicy.load(exported / "robopolicy")
    config = PreTrainedConfig.from_pretrained(exported, cli_overrides=["--seed=5", f"--n_action_steps={count}"])
    policy = get_policy_class("robopolicy").from_pretrained(exported, config=config)
    assert policy.config.n_action_steps == count
    steps = batches(ours, count + 1)
    keys = policy.noise_keys(1)
    taken = torch.stack([policy.select_action(dict(b)) for b in steps[:count]], dim=1)
    pair = {key: torch.stack([steps[0][key]] * 2, dim=1) for key in steps[0]}
    whole = torch.from_numpy(ours.act(pair, noise_keys=keys).actions)
    assert torch.equal(taken, whole[:, 1 : 1 + count])
    again = policy.noise_keys(1)
    policy.select_action(dict(steps[count]))  # only now is the next chunk asked for
    assert policy.noise_keys(1) != again
    assert policy.predict_action_chunk(dict(steps[count])).shape == (1, count, 3)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        *(("n_action_steps=8", "n_action_steps=8, expected 1..7"), ("n_action_steps=0", "expected 1..7")),
        *(("horizon=16", "horizon=16, but the checkpoint has 8"), ("n_obs_steps=3", "the checkpoint has 2")),
    ],
)
def test_numbers_of_steps_that_the_checkpoint_cannot_have_are_refused(exported, given, told):
    config = PreTrainedConfig.from_pretrained(exported, cli_overrides=[f"--{given}"])
    with pytest.raises(ConfigError, match=told):
        get_policy_class("robopolicy").from_pretrained(exported, config=config)


def test_a_policy_with_a_memory_keeps_its_stride():
    spec = ActionSpec(SPACE, horizon=8, n_obs_steps=2, n_action_steps=3, dt=0.1)
    policy = SimpleNamespace(action_spec=spec, observation_spec=SimpleNamespace(features=()))
    policy.needs = SimpleNamespace(chain_stride=3)
    for count in (None, 3):
        RobopolicyConfig(n_action_steps=count, device="cpu").read(policy)
    with pytest.raises(ConfigError, match="carries a memory"):
        RobopolicyConfig(n_action_steps=4, device="cpu").read(policy)


def test_an_exported_checkpoint_goes_through_lerobots_factories(exported):
    config = PreTrainedConfig.from_pretrained(exported)
    config.pretrained_path = exported
    assert config.type == "robopolicy"
    assert (config.n_obs_steps, config.n_action_steps, config.horizon) == (2, 3, 8)
    assert config.observation_delta_indices == [-1, 0]
    assert config.action_delta_indices == list(range(-1, 7))
    assert config.input_features["observation.state"].shape == (4,)

    size = {"dtype": "image", "shape": (16, 16, 3), "names": ["height", "width", "channel"]}
    vectors = {name: {"dtype": "float32", "shape": (n,), "names": None} for name, n in SHAPES.items()}
    meta = SimpleNamespace(features={**vectors, "observation.images.front": size}, stats=None)
    policy = make_policy(config, ds_meta=meta)
    overrides = {"device_processor": {"device": "cpu"}, "rename_observations_processor": {"rename_map": {}}}
    pre, post = make_pre_post_processors(config, str(exported), preprocessor_overrides=overrides)
    one = {k: v[0] for k, v in batches(policy.policy, 1)[0].items()}  # one observation without a batch, as from a robot
    action = post(policy.select_action(pre(one)))
    assert action.shape == (1, 3)
    assert torch.isfinite(action).all()
    fresh_pre, _ = make_pre_post_processors(config)
    assert torch.equal(fresh_pre(dict(one))["observation.state"], one["observation.state"][None])


def test_a_run_of_ours_needs_no_export(plugins, checkpoint):
    config = make_policy_config("robopolicy", checkpoint=str(checkpoint), device="cpu")
    policy = get_policy_class("robopolicy")(config)
    assert config.output_features["action"].shape == (3,)
    config.validate_features()
    with pytest.raises(NotImplementedError, match="robopolicy train"):
        policy.forward({})
    with pytest.raises(ConfigError, match=r"needs 'observation\.state'"):
        policy.select_action({})


def test_an_exported_checkpoint_is_complete_and_says_so_when_not(exported, plugins, tmp_path, capsys):
    assert json.loads((exported / "config.json").read_text())["checkpoint"] == "robopolicy"
    assert (exported / "policy_preprocessor.json").is_file()
    with pytest.raises(CheckpointError, match="lerobot export"):
        get_policy_class("robopolicy").from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint"):
        get_policy_class("robopolicy")(make_policy_config("robopolicy", device="cpu"))
    assert main(["lerobot", "export", str(exported), str(exported)]) == 2
    assert "not empty" in capsys.readouterr().err
