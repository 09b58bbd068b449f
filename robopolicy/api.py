"""The curated public names: ``robopolicy.load`` and what one does with the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.core.errors import CheckpointError

if TYPE_CHECKING:
    from robopolicy.policies.acting import Acting
    from robopolicy.rl.critic import Critic


def resolve_policy_dir(path: str | Path) -> Path:
    """The policy directory meant by a policy, checkpoint or run directory (a run: best if marked, else newest).

    Raises ``CheckpointError`` naming what was looked for.
    """
    return _resolve(path, "policy")


def resolve_critic_dir(path: str | Path) -> Path:
    """The critic directory meant by a critic, checkpoint or run directory, as ``resolve_policy_dir`` for policies."""
    return _resolve(path, "critic")


def _resolve(path: str | Path, kind: str) -> Path:
    from robopolicy.training.checkpoint import best_checkpoint, latest_checkpoint

    path = Path(path)
    if not path.is_dir():
        if path.is_file():
            raise CheckpointError(f"{path}: a file; expected a run, a checkpoint or a {kind} directory")
        raise CheckpointError(f"{path}: no such directory; expected a run, a checkpoint or a {kind} directory")
    if (path / "model.safetensors").is_file():
        return path
    if (path / kind).is_dir():
        return path / kind
    if (path / "checkpoints").is_dir():
        checkpoint = best_checkpoint(path) or latest_checkpoint(path)
        if checkpoint is not None and not (checkpoint / kind).is_dir():
            held = ", ".join(sorted(p.name for p in checkpoint.iterdir() if p.is_dir()))
            raise CheckpointError(
                f"{path}: its checkpoints hold no {kind} (they hold: {held}); this run trained another"
            )
        if checkpoint is not None:
            return checkpoint / kind
    raise CheckpointError(f"{path}: holds no complete {kind} (looked for model.safetensors, {kind}/, checkpoints/*)")


def find_policy(path: str | Path) -> Path:
    """What ``load`` loads, made definite: a policy directory, the YAML file of a nesting, or ``lerobot:...``."""
    from robopolicy.nesting import LEROBOT, is_nesting, nesting_in

    if str(path).startswith(LEROBOT) or is_nesting(found := nesting_in(path)):
        return Path(path) if str(path).startswith(LEROBOT) else found
    return resolve_policy_dir(path)


def load(path: str | Path, device: str = "cpu") -> Acting:
    """Load a policy, ready to act: a policy, checkpoint or run directory, a nesting (YAML), or ``lerobot:PATH_OR_ID``.

    Of a fine-tuning run it is the policy that ``RUN/policy.yaml`` names.

    Loading is strict: hashes, specs, statistics and every tensor are checked, and the result is in eval mode.
    """
    from robopolicy.nesting import Place, is_nesting, load_nesting, load_source, nesting_in

    if is_nesting(found := nesting_in(path)):
        return load_nesting(found, device)
    return load_source(str(path), Place(Path()), device)


def load_critic(path: str | Path, device: str = "cpu") -> Critic:
    """Load a critic, in evaluation mode, from a critic, checkpoint or run directory (a run: best ranking, else newest).

    Loading is strict: hashes, specs, statistics and every tensor are checked.
    """
    from robopolicy.rl import io

    return io.load_critic(resolve_critic_dir(path), device=device)
