"""Where a result came from: versions, machine, renderer, commit, and the hash of the policy's weights."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from robopolicy import __version__

# What the settings of wrappers are called.
SETTINGS = (
    *("weights", "leader", "operator", "tolerance_logk", "same_task"),
    *("num_samples", "temperature", "relative_temperature", "reduction", "score_first_step_only", "hysteresis"),
    *("keep", "steps", "eta", "eta_mode", "radius", "selection", "critic_weights", "bounds", "rotations", "max_jump"),
    *("latent_map", "bound", "deterministic"),
    *("cap", "jacobian"),
)
PACKAGES = ("numpy", "torch", "mujoco", "gym-pusht", "pymunk", "robosuite", "robomimic", "gymnasium", "lerobot")


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what can change a result, without importing any of it."""
    versions = {"python": platform.python_version(), "robopolicy": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine(renderer: str, drawn_by: str = "", ray: str = "") -> dict[str, Any]:
    """Platform, cores, Ray cluster if any, and what the first worker rendered with: OpenGL backend, and what drew."""
    return {
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "MUJOCO_GL": renderer or "not used",
        **({"renderer": drawn_by} if drawn_by else {}),
        **({"ray": ray} if ray else {}),
    }


@functools.cache  # what was loaded is what counts, not what was committed since
def git_commit(folder: Path | None = None) -> str | None:
    """Commit of the checkout that holds ``folder`` (default: this package), with ``+`` when files differ; or None."""
    git = shutil.which("git")
    if git is None:
        return None
    where = str(folder or Path(__file__).resolve().parent)
    try:
        commit = _git(git, where, "rev-parse", "HEAD")
        return commit + ("+" if _git(git, where, "status", "--porcelain", "--untracked-files=no") else "")
    except (subprocess.SubprocessError, OSError):
        return None


def _git(git: str, where: str, *arguments: str) -> str:
    done = subprocess.run([git, "-C", where, *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def policy_hash(policy: Any) -> str | None:
    """SHA-256 over names, types and bytes of the weights; None for a policy without ``state_dict``.

    Of a wrapper: over the hashes of everything inside it, a critic included, and the wrapper's own settings.
    """
    parts = parts_of(policy)
    if parts:
        inside = {role: [type(part).__name__, policy_hash(part)] for role, part in parts.items()}
        told = {"type": type(policy).__name__, "settings": settings_of(policy), "parts": inside}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    if not hasattr(policy, "state_dict"):
        return None
    from robopolicy.training.tensors import digest

    return digest(policy.state_dict())


def parts_of(policy: Any) -> dict[str, Any]:
    """What a wrapper (``wrappers.base``) puts together, policies, critic, noise actor, by role; empty for others."""
    parents = getattr(policy, "parents", None)
    if not parents:
        return {}
    parts = {f"policies[{i}]": parent for i, parent in enumerate(parents)}
    if len(parts) == 1:
        parts = {"policy": parents[0]}
    return parts | {role: getattr(policy, role) for role in ("critic", "actor") if hasattr(policy, role)}


def settings_of(policy: Any) -> dict[str, Any]:
    """The settings of a wrapper that decide what it does, as plain data."""
    told = {name: getattr(policy, name) for name in SETTINGS if hasattr(policy, name)}
    told = {name: _plain(value) for name, value in told.items()}
    return {**told, "n_action_steps": policy.action_spec.n_action_steps}


def _plain(value: Any) -> Any:
    """A setting as JSON has it: sequences and tensors as lists, infinity as text."""
    if not isinstance(value, (str, bool, int, float, type(None))):
        return [_plain(float(v)) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def describe_nesting(policy: Any) -> dict[str, Any]:
    """What a record tells of a wrapper besides what it tells of any policy: settings and parts, down to the leaves."""
    parts = parts_of(policy)
    if not parts:
        return {}
    return {"settings": settings_of(policy), "parts": {role: _describe_part(part) for role, part in parts.items()}}


def _describe_part(part: Any) -> dict[str, Any]:
    origin = getattr(part, "origin", None)
    return {"type": type(part).__name__, "path": origin, "sha256": policy_hash(part), **describe_nesting(part)}
