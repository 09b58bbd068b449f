"""The curated public names: ``robopolicy.load`` and what one does with the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robopolicy.core.errors import CheckpointError

if TYPE_CHECKING:
    from robopolicy.policies.base import Policy


def resolve_policy_dir(path: str | Path) -> Path:
    """The policy directory meant by a policy, checkpoint or run directory (a run: best if marked, else newest).

    Raises ``CheckpointError`` naming what was looked for.
    """
    from robopolicy.training.checkpoint import best_checkpoint, latest_checkpoint

    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory; expected a run, a checkpoint or a policy directory")
    if (path / "model.safetensors").is_file():
        return path
    if (path / "policy").is_dir():
        return path / "policy"
    if (path / "checkpoints").is_dir():
        checkpoint = best_checkpoint(path) or latest_checkpoint(path)
        if checkpoint is not None:
            return checkpoint / "policy"
    raise CheckpointError(f"{path}: holds no complete policy (looked for model.safetensors, policy/, checkpoints/*)")


def load(path: str | Path, device: str = "cpu") -> Policy:
    """Load a policy, ready to act, from a policy, checkpoint or run directory.

    Loading is strict: hashes, specs, statistics and every tensor are checked, and the result is in eval mode.
    """
    from robopolicy.policies.io import load_policy

    return load_policy(resolve_policy_dir(path), device=device)
