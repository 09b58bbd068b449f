"""The launch files: well-formed, and what they tell the guard and the bridge is understood by both."""

from __future__ import annotations

import argparse
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from robopolicy.cli import bridge
from robopolicy.cli.main import VERBS
from robopolicy.real_robot.guard.options import add_arguments, read_config, read_topics
from robopolicy.real_robot.interface import COMMAND_TOPICS
from robopolicy.real_robot.wire.gateway_config import GUARDED_TOPICS
from robopolicy.resources import resource

FILES = ("ros1/robopolicy_robot/launch/franka.launch", "ros1/robopolicy_robot/launch/cameras.launch")
FILES += ("ros1/robopolicy_robot/package.xml", "ros2/franka.launch.xml")


def tree(name):
    return ET.fromstring(resource(f"real_robot/{name}").read_text())


def filled(text, root):
    """A launch file's text with its own arguments' defaults."""
    values = {a.get("name"): a.get("default") for a in root.findall("arg")}
    return re.sub(r"\$\((?:arg|var) (\w+)\)", lambda m: values[m[1]] or "X", text)


@pytest.mark.parametrize("name", FILES)
def test_they_are_well_formed_and_use_only_arguments_that_they_declare(name):
    root = tree(name)
    declared = {a.get("name") for a in root.findall("arg")}
    used = {m for e in root.iter() for v in e.attrib.values() for m in re.findall(r"\$\((?:arg|var) (\w+)\)", v)}
    assert used <= declared


@pytest.mark.parametrize(("name", "ros", "arm"), [(FILES[0], "ros1", "panda"), (FILES[3], "ros2", "fr3")])
def test_the_guard_understands_its_arguments_and_begins_slowly(name, ros, arm):
    root = tree(name)
    node = next(e for e in root.iter() if e.get("name") == "robopolicy_guard")
    words = filled(node.get("args") or node.get("cmd"), root).split()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(words[words.index("--ros") :])
    assert args.ros == ros
    assert read_config(args).frame_id == f"{arm}_link0"
    assert read_config(args).lead == 0.04  # first-run
    assert read_topics(args).controller == COMMAND_TOPICS["franka_ros" if ros == "ros1" else "crisp"]


@pytest.mark.parametrize("name", [FILES[0], FILES[3]])
def test_no_client_of_the_bridge_reaches_the_controllers_topic(name):
    globs = next(e.get("value") for e in tree(name).iter("arg") if e.get("name") == "topics_glob" and e.get("value"))
    patterns = re.findall(r"'([^']+)'", globs)
    assert "/robopolicy/*" in patterns
    for topic in COMMAND_TOPICS.values():
        assert not any(re.fullmatch(p.replace("*", ".*"), topic) for p in (*patterns, *GUARDED_TOPICS))


def test_the_gateway_of_the_ros2_file_is_started_by_options_that_exist():
    command = next(e.get("cmd") for e in tree(FILES[3]).iter("executable") if e.get("name") == "robopolicy_gateway")
    parser = argparse.ArgumentParser()
    bridge.add_arguments(parser)
    args = parser.parse_args(filled(command, tree(FILES[3])).split()[2:])
    assert args.guarded
    assert args.host == "127.0.0.1"


def test_the_checklist_and_the_pages_name_only_verbs_that_exist():
    pages = [resource("real_robot/checklist.md"), resource("real_robot/README.md")]
    for page in pages:
        for verb in re.findall(r"`robopolicy ([a-z-]+)", Path(page).read_text()):
            assert verb in VERBS
