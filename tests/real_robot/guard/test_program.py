"""The guard's program: options, the one-file form on the oldest Python at hand, and what its core may import."""

from __future__ import annotations

import argparse
import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import robopolicy.real_robot.guard as package
from robopolicy.cli.main import main
from robopolicy.core.errors import ConfigError
from robopolicy.real_robot.guard.main import run
from robopolicy.real_robot.guard.options import add_arguments, read_config, read_topics, usual_topics
from robopolicy.real_robot.guard.pack import PARTS, pack
from robopolicy.real_robot.interface import interface

FOLDER = Path(package.__file__).parent
ROOT = FOLDER.parents[2]
ROS = {"rospy", "rosgraph", "rclpy", "geometry_msgs", "std_msgs", "franka_msgs"}


def options(*argv):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def test_usual_names_are_those_of_the_interface():
    assert usual_topics("ros1").controller == interface("ros1").command
    assert usual_topics("ros1").measured == interface("ros1").state
    topics = usual_topics("ros2")
    assert (topics.controller, topics.measured_type) == ("/target_pose", "pose")
    assert topics.measured == "/franka_robot_state_broadcaster/current_pose"


def test_options_reach_the_guard():
    args = options(
        *("--ros", "ros2", "--arm-id", "fr3", "--limits", "first-run", "--lease", "0.2", "--lead", "0.05"),
        *("--box", "0.3", "-0.1", "0.1", "0.5", "0.1", "0.4", "--controller", "/c", "--measured", "/p"),
        *("--measured-type", "franka_robot_state"),
    )
    config, topics = read_config(args), read_topics(args)
    assert (config.frame_id, config.lease, config.lead, config.turn_lead) == ("fr3_link0", 0.2, 0.05, 0.2)
    assert (config.box_low, config.box_high) == ((0.3, -0.1, 0.1), (0.5, 0.1, 0.4))
    assert topics[:3] == ("/c", "/p", "franka_robot_state")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--lease", "0.5"), "lease"),
        (("--box", "0", "-0.1", "0.1", "0.5", "0.1", "0.4"), "box, x"),
        (("--controller", "/robopolicy/target_pose"), "cannot be both"),
        (("--measured", "/p"), "together"),
        (("--ros", "ros2", "--measured", "/p", "--measured-type", "franka_state"), "does not exist on ros2"),
        (("--controller", "nonsense"), "expected one of"),
    ],
)
def test_wrong_options_are_told_in_one_line(argv, words):
    with pytest.raises(ConfigError, match=words):
        run(options(*argv))


def test_core_and_shells_import_nothing_but_the_standard_library_ros_and_each_other():
    standard = set(sys.stdlib_module_names)
    for part in PARTS:
        tree = ast.parse((ROOT / "robopolicy" / part).read_text(), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                if top == "robopolicy":
                    found = name.replace(".", "/").removeprefix("robopolicy/") + ".py"
                    assert found in PARTS or part == "__init__.py", f"{part} imports {name}, which is not packed"
                elif top in ROS:
                    assert part.endswith(("rospy_node.py", "rclpy_node.py")), f"{part} imports {name}"
                else:
                    assert top in standard, f"{part} imports {name}"


def old_pythons():
    found = [shutil.which(f"python3.{minor}") for minor in (8, 9, 10)]
    works = [p for p in found if p and subprocess.run([p, "-c", ""], capture_output=True).returncode == 0]
    return works or [sys.executable]


def test_the_packed_guard_runs_on_the_oldest_python_here(tmp_path):
    file = tmp_path / "guard.pyz"
    assert main(["guard", "pack", str(file)]) == 0
    assert file.read_bytes() == pack(tmp_path / "again.pyz").read_bytes()
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from robopolicy.real_robot.guard.core import Guard\n"
        "from robopolicy.real_robot.guard.checks import Target\n"
        "from robopolicy.real_robot.guard.lease import LeaseWriter\n"
        "g, w, s = Guard(), LeaseWriter('a'), (1700000000, 0)\n"
        "w.arm(); g.measured(1.0, (0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0), 0.0)\n"
        "g.lease(w.text(s), 0.0, 1.7e9)\n"
        "p = g.target(Target(s, 'panda_link0', (0.41, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), 0.0, 1.7e9)\n"
        "assert p.position == (0.41, 0.0, 0.3), g.status()\n"
        "assert g.tick(0.16).position == (0.4, 0.0, 0.3)\n"
        "assert 'numpy' not in sys.modules\n"
    )
    for python in old_pythons():
        done = subprocess.run([python, "-S", "-c", probe, str(file)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{python}: {done.stderr}"
        told = subprocess.run([python, str(file), "--help"], capture_output=True, text=True, cwd=tmp_path)
        assert "Not a safety-rated function" in told.stdout
        wrong = subprocess.run([python, str(file), "--lease", "9", "__name:=x"], capture_output=True, text=True)
        assert wrong.returncode == 2
        assert wrong.stderr == "robopolicy_guard: lease: expected 0.1 to 0.2, got 9.0\n"


def test_pack_says_why_it_cannot(tmp_path, capsys):
    assert main(["guard", "pack", str(tmp_path / "no" / "such" / "guard.pyz")]) == 2
    assert "cannot write" in capsys.readouterr().err
