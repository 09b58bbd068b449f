"""Our robot and our policies inside LeRobot's own commands (LeRobot 0.4.4, `pip install "robopolicy[lerobot]"`).

  robopolicy lerobot install                    let LeRobot find the robot robopolicy_franka and the policy robopolicy
  robopolicy lerobot export runs/NAME out/      a checkpoint that LeRobot loads: lerobot-eval --policy.path=out/
  robopolicy lerobot wheels dist/               the two plug-ins as wheels, for pip install on another machine
  robopolicy lerobot uninstall

then, for example, with `robopolicy twin` running:

  lerobot-record --robot.type=robopolicy_franka --robot.arm=true --robot.operator=NAME --policy.path=out/ ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robopolicy.core.errors import ConfigError

ACTIONS = ("install", "uninstall", "wheels", "export")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``robopolicy lerobot``."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("paths", nargs="*", type=Path, help="export: policy and new folder; wheels: folder")
    parser.add_argument("--site", type=Path, help="site-packages to install into (this interpreter's)")


def run(args: argparse.Namespace) -> int:
    """Do it, and say what comes next."""
    from robopolicy.lerobot_plugin.wheels import PLUGINS, install, uninstall, write_wheels

    count = {"export": 2, "wheels": 1}.get(args.action, 0)
    if len(args.paths) != count:
        raise ConfigError(f"{args.action}: expected {count} path(s), got {len(args.paths)}; see --help")
    if args.action == "install":
        print(f"{' and '.join(PLUGINS)} in {install(args.site)}; LeRobot now knows robopolicy_franka and robopolicy")
    elif args.action == "uninstall":
        print(f"{uninstall(args.site)} distribution(s) removed")
    elif args.action == "wheels":
        print("\n".join(map(str, write_wheels(args.paths[0]))))
    else:
        _export(*args.paths)
    return 0


def _export(policy: Path, out: Path) -> None:
    try:
        from robopolicy.lerobot_plugin.configuration_robopolicy import RobopolicyConfig
    except ImportError as e:
        raise ConfigError(f'LeRobot is not installed ({e}): pip install "robopolicy[lerobot]"') from None
    from robopolicy.lerobot_plugin.modeling_robopolicy import RobopolicyPolicy
    from robopolicy.lerobot_plugin.processor_robopolicy import make_robopolicy_pre_post_processors

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; name a new folder")
    made = RobopolicyPolicy(RobopolicyConfig(checkpoint=str(policy), device="cpu", push_to_hub=False))
    made.save_pretrained(out)
    for pipeline in make_robopolicy_pre_post_processors(made.config):
        pipeline.save_pretrained(out)
    print(f"{out}: a LeRobot checkpoint of type robopolicy; --policy.path={out}")
