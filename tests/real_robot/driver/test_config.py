"""Settings of a driver: presets, files, and what is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from robopolicy.core.configs import build_config, dump_config
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.driver.config import FOLDER, FrankaBridgeConfig, bridge_config, presets
from robopolicy.real_robot.kinematics import PANDA, hand_on_flange
from robopolicy.real_robot.limits import SafetyLimits, Timeouts
from robopolicy.resources import resource

pytest.importorskip("websockets", reason="the extra [robot] is not installed: pip install 'robopolicy[robot]'")


def test_the_presets_load_and_those_of_arms_begin_slowly():
    assert set(presets()) == {"fr3_crisp", "panda_franka_ros", "panda_serl", "twin"}
    for name in presets():
        config = bridge_config(name)
        assert build_config(FrankaBridgeConfig, dump_config(config)) == config
        if name != "twin":
            assert config.safety() == SafetyLimits.first_run()
            assert config.dead_man
    assert bridge_config("panda_serl").interface().command == "/cartesian_impedance_controller/equilibrium_pose"
    crisp = bridge_config("fr3_crisp")
    assert crisp.interface().state_type == "franka_msgs/FrankaRobotState"
    assert crisp.interface().base_frame == "fr3_link0"
    assert crisp.hardware().name == "fr3"
    assert crisp.client().flavour == "ros2"


def test_F25_every_preset_says_whether_it_needs_a_dead_man_and_those_of_arms_do():
    for name in presets():
        said = yaml.safe_load(resource(f"{FOLDER}/{name}.yaml").read_text())
        assert said["dead_man"] is (name != "twin"), name  # not left to a default


def test_the_twin_preset_is_what_the_twin_does():
    pytest.importorskip("mujoco")
    from robopolicy.real_robot.twin.config import TwinConfig

    twin, config = TwinConfig(), bridge_config("twin")
    assert config.interface() == twin.interface()
    assert {c.size for c in config.cameras.values()} == {twin.image_size}
    assert {c.fps for c in config.cameras.values()} == {twin.camera_rate}


def test_the_anchor_comes_first():
    cameras = {"front": {}, "wrist": {"topic": "/eye"}, "side": {}}
    config = FrankaBridgeConfig(cameras=cameras, anchor="wrist")
    assert config.camera_names == ("wrist", "front", "side")
    assert next(iter(config.interface().cameras.items())) == ("wrist", "/eye")
    assert FrankaBridgeConfig(cameras=cameras).camera_names == ("front", "wrist", "side")


def test_the_tool_is_read_as_the_robot_shows_it():
    assert FrankaBridgeConfig().kinematics() is PANDA
    tool = hand_on_flange(0.15)
    config = FrankaBridgeConfig(tool=tuple(tool.T.ravel()))
    np.testing.assert_allclose(config.kinematics().tool, tool)
    with pytest.raises(ConfigError, match="F_T_EE: expected a rigid transform"):
        FrankaBridgeConfig(tool=(0.0,) * 16)
    with pytest.raises(ConfigError, match="sixteen finite numbers"):
        FrankaBridgeConfig(tool=(1.0,) * 15)


def test_a_slow_publisher_gets_more_time_and_lock_step_all_of_it():
    assert FrankaBridgeConfig(state_rate=30).times == Timeouts.for_state_rate(30)
    assert FrankaBridgeConfig(timeouts=Timeouts(state_hard=0.4)).times.state_hard == 0.4
    assert FrankaBridgeConfig().client().ping_timeout == 0.25
    assert FrankaBridgeConfig().client(lock_step=True).ping_timeout >= 30


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anker": "front"}, "unknown key 'anker'"),
        ({"cameras": {"front": {"sizes": (1, 2)}}}, "did you mean 'size'"),
        ({"anchor": "fronts"}, "did you mean 'front'"),
        ({"limits": "frist-run"}, "did you mean 'first-run'"),
        ({"robot": "pandas"}, "did you mean 'panda'"),
        ({"controller": "impedance"}, "expected one of franka_ros"),
        ({"url": "ws://192.168.1.5:9090"}, "add it to allowed_hosts"),
        ({"url": "ws://8.8.8.8:9090", "allowed_hosts": ("8.8.8.8",)}, "plain ws to a public address"),
        ({"timeouts": {"state_hard": 1e9}}, "above its hard cap 0.5 s"),
        ({"timeouts": {"dead_man": 5.0}}, "above its hard cap 0.5 s"),
        ({"arm_latency": 2.0}, "arm_latency: expected 0 to 1"),
        ({"objects": "objects"}, "begins with /"),
        ({"cameras": {"front": {"fps": 0}}}, "fps: expected"),
        ({"cameras": {"front": {"size": (0, 5)}}}, "expected \\(height, width\\)"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_file(changes, said):
    with pytest.raises(ConfigError, match=said) as e:
        bridge_config("twin", **changes)
    assert "twin.yaml" in str(e.value)
    assert "\n" not in str(e.value)


def test_files_that_a_file_names_lie_beside_it(tmp_path):
    (tmp_path / "slow.yaml").write_text("speed: 0.03\n")
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump({"limits": "slow.yaml", "token_file": "token"}))
    config = bridge_config(str(tmp_path / "robot.yaml"))
    assert config.safety().speed == 0.03
    assert config.token_file == tmp_path / "token"
    with pytest.raises(ConfigError, match="no robot preset called 'twins'; did you mean 'twin'"):
        bridge_config("twins")
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        bridge_config(str(tmp_path / "gone.yaml"))
