"""From a nesting in YAML to a policy: wrappers around policies around policies, each checked as it is built.

See ``wrappers.config`` for the form of the file.  Every policy built here knows where it came from (``origin``), so
that records can tell the whole tree.  Refused in one line, with the file and the place in it: unknown keys, a file that
contains itself, weights of another hash than the file says, parents that do not fit together.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopolicy.core.errors import CheckpointError, ConfigError, PolicyInterfaceError
from robopolicy.wrappers.config import (
    ComposedConfig,
    LeRobotConfig,
    NestingConfig,
    OptimisedConfig,
    RealTimeConfig,
    Source,
    SteeredConfig,
    ValueGuidedConfig,
    nesting_config,
)

if TYPE_CHECKING:
    from robopolicy.policies.acting import Acting

LEROBOT = "lerobot:"
SUFFIXES = (".yaml", ".yml")
# What of a nesting's keys does not go to its wrapper.
NOT_SETTINGS = frozenset({"type", "format", "policy", "critic", "actor", "sampler", "env", "sha256"})


@dataclass(frozen=True)
class Place:
    """Where a piece of a nesting is written: the ``folder`` its paths count from, the files around it, its name."""

    folder: Path
    files: tuple[Path, ...] = ()
    name: str = ""

    @property
    def where(self) -> str:
        """Opens error messages."""
        file = str(self.files[-1]) if self.files else "nesting"
        return f"{file}: {self.name}" if self.name else file

    def at(self, name: str) -> Place:
        """A piece inside this one."""
        return Place(self.folder, self.files, f"{self.name}.{name}" if self.name else name)

    def path(self, text: str) -> Path:
        """``text`` as a path, relative ones counted from the folder."""
        return self.folder / Path(text).expanduser()

    def entered(self, file: Path) -> Place:
        """The place inside another file; raises ``ConfigError`` if we are in it already."""
        resolved = file.resolve()
        if resolved in (f.resolve() for f in self.files):
            chain = " -> ".join(str(f) for f in (*self.files, file))
            raise ConfigError(f"{self.where}: the file contains itself: {chain}")
        return Place(file.parent, (*self.files, file))


def is_nesting(path: str | Path) -> bool:
    """Whether ``path`` is the name of a YAML file (that it exists is checked on reading)."""
    return Path(path).suffix in SUFFIXES and not Path(path).is_dir()


def nesting_in(path: str | Path) -> Path:
    """The nesting of a fine-tuning run or of one of its checkpoints, ``policy.yaml`` in it; else ``path`` itself."""
    files = (Path(path) / "policy.yaml", Path(path) / "deploy" / "policy.yaml")
    return next((file for file in files if file.is_file()), Path(path))


def read_nesting(path: str | Path, place: Place | None = None) -> tuple[NestingConfig, Place]:
    """The configuration in a YAML file and its place; raises ``ConfigError`` naming file and key."""
    from robopolicy.training.config_load import read_yaml

    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; expected the YAML of a nesting of policies")
    inside = (place or Place(Path())).entered(file)
    return nesting_config(read_yaml(file), str(file)), inside


def load_nesting(path: str | Path, device: str = "cpu") -> Acting:
    """The policy that a YAML file describes, in evaluation mode; errors as in the module's docstring."""
    policy = build(*read_nesting(path), device)
    return _marked(policy, str(path))


def load_source(source: Source, place: Place, device: str = "cpu", fps: float | None = None) -> Acting:
    """A policy from text or a mapping, see ``wrappers.config``; ``fps`` for LeRobot policies that state none."""
    if isinstance(source, Mapping):
        return build(nesting_config(source, place.where), place, device, fps)
    if source.startswith(LEROBOT):
        return build(LeRobotConfig(path=source.removeprefix(LEROBOT)), place, device, fps)
    path = nesting_in(place.path(source))
    if is_nesting(path):
        policy = build(*read_nesting(path, place), device, fps)
    else:
        from robopolicy.api import resolve_policy_dir
        from robopolicy.policies.io import load_policy

        try:
            path = resolve_policy_dir(path)
        except CheckpointError as e:
            raise CheckpointError(f"{place.where}: {e}" if place.files else str(e)) from e
        policy = load_policy(path, device)
    return _marked(policy, str(path))


def build(config: NestingConfig, place: Place, device: str = "cpu", fps: float | None = None) -> Acting:
    """The policy of a configuration; ``place`` tells what its paths count from."""
    if isinstance(config, LeRobotConfig):
        policy = _lerobot(config, place, device, fps)
    elif isinstance(config, ComposedConfig):
        policy = _composed(config, place, device, fps)
    elif isinstance(config, SteeredConfig):
        return _steered(config, place, device, fps).eval()
    elif isinstance(config, RealTimeConfig):
        policy = _real_time(config, place, device, fps)
    else:
        policy = _guided(config, place, device, fps)
    if config.sampler:
        _fitted(place.at("sampler"), lambda: policy.set_sampler(**config.sampler))
    return policy.eval()


def _lerobot(config: LeRobotConfig, place: Place, device: str, fps: float | None) -> Acting:
    from robopolicy.policies.lerobot_io import load_lerobot_policy

    local = place.path(config.path)
    checkpoint = str(local) if local.exists() else config.path
    return _marked(load_lerobot_policy(checkpoint, device, config.fps or fps), LEROBOT + checkpoint)


def _composed(config: ComposedConfig, place: Place, device: str, fps: float | None) -> Acting:
    from robopolicy.wrappers.compose import ComposedPolicy

    places = [place.at(f"policies[{i}]") for i in range(len(config.policies))]
    parents = [load_source(s, p, device, fps) for s, p in zip(config.policies, places, strict=True)]
    for parent, source, inside in zip(parents, config.policies, places, strict=True):
        if not parent.action_spec.dt and LEROBOT[:-1] in str(source):
            raise ConfigError(
                f"{inside.where}: LeRobot's checkpoint does not state the rate of its actions; write "
                f"{{type: lerobot, path: ..., fps: {_known_rate(parents)}}}"
            )
    if config.sha256 is not None:
        for parent, digest, inside in zip(parents, config.sha256, places, strict=True):
            check_hash(parent, digest, inside.where)
    return _fitted(
        place,
        lambda: ComposedPolicy(
            parents,
            config.weights,
            leader=config.leader,
            operator=config.operator,
            n_action_steps=config.n_action_steps,
            tolerance_logk=config.tolerance_logk,
            same_task=config.same_task,
        ),
    )


def _known_rate(parents: list[Acting]) -> str:
    rates = [1 / p.action_spec.dt for p in parents if p.action_spec.dt]
    return f"{rates[0]:g}" if rates else "HZ"


def _guided(config: ValueGuidedConfig | OptimisedConfig, place: Place, device: str, fps: float | None) -> Acting:
    from robopolicy.wrappers.optimise import OptimisedPolicy
    from robopolicy.wrappers.rerank import ValueGuidedPolicy

    kind: Any = OptimisedPolicy if isinstance(config, OptimisedConfig) else ValueGuidedPolicy
    policy = load_source(config.policy, place.at("policy"), device, fps)
    critic = _critic(config.critic, place, device)
    if config.sha256 is not None:
        check_hash(policy, config.sha256.policy, place.at("policy").where)
        check_hash(critic, config.sha256.critic, place.at("critic").where)
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_SETTINGS}
    return _fitted(place, lambda: kind(policy, critic, **settings))


def _steered(config: SteeredConfig, place: Place, device: str, fps: float | None) -> Acting:
    from robopolicy.rl.noise_actor import load_noise_actor
    from robopolicy.wrappers.steer import SteeredPolicy

    policy = load_source(config.policy, place.at("policy"), device, fps)
    path = place.path(config.actor)
    try:
        actor = _marked(load_noise_actor(path, device), str(path))
    except CheckpointError as e:
        raise CheckpointError(f"{place.at('actor').where}: {e}") from e
    if config.sha256 is not None:
        check_hash(policy, config.sha256.policy, place.at("policy").where)
        check_hash(actor, config.sha256.actor, place.at("actor").where)
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_SETTINGS}
    return _fitted(place, lambda: SteeredPolicy(policy, actor, **settings))


def _real_time(config: RealTimeConfig, place: Place, device: str, fps: float | None) -> Acting:
    from robopolicy.wrappers.execution.policy import RealTimePolicy

    policy = load_source(config.policy, place.at("policy"), device, fps)
    if config.sha256 is not None:
        check_hash(policy, config.sha256, place.at("policy").where)
    jacobian: Any = "identity" if config.jacobian == "identity" else "true"
    return _fitted(place, lambda: RealTimePolicy(policy, cap=config.cap, jacobian=jacobian))


def _critic(text: str, place: Place, device: str) -> Any:
    from robopolicy.wrappers.rerank_scorers import EnergyCritic, RandomSelector

    if text in ("energy", "random"):
        return EnergyCritic() if text == "energy" else RandomSelector()
    from robopolicy.api import load_critic

    path = place.path(text)
    return _marked(load_critic(path, device=device), str(path))


def _fitted(place: Place, make: Any) -> Any:
    """``make()``; what does not fit is told with the file."""
    try:
        return make()
    except (PolicyInterfaceError, ConfigError) as e:
        raise type(e)(f"{place.where}: {e}") from e


def _marked(policy: Any, origin: str) -> Any:
    policy.origin = origin
    return policy


def hash_of(policy: Any) -> str | None:
    """What a file's ``sha256`` says of ``policy``; None for one whose weights cannot be listed."""
    from robopolicy.evaluation.provenance import policy_hash

    return policy_hash(policy)


def check_hash(policy: Any, digest: str | None, where: str) -> None:
    """Raise ``CheckpointError`` unless the weights are those the file was made with (``None`` is not checked)."""
    found = hash_of(policy) if digest is not None else None
    if digest is not None and found != digest:
        raise CheckpointError(
            f"{where}: other weights than the file was made with (sha256 {str(found)[:12]}..., expected "
            f"{digest[:12]}...); put the old ones back, or make the file again with what made it"
        )


def written_source(source: str, folder: Path) -> str:
    """How a file in ``folder`` names a policy or critic: relative where both lie on one drive."""
    if source.startswith(LEROBOT):
        local = source.removeprefix(LEROBOT)
        return LEROBOT + written_source(local, folder) if Path(local).exists() else source
    try:
        return Path(os.path.relpath(Path(source).resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive
        return str(Path(source).resolve())
