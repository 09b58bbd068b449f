"""What a fine-tuning run has on disk besides its replay: counters, learner, the policy to deploy, and where it is.

A checkpoint is ``RUN/checkpoints/step_000123/`` with ``deploy/`` (what the method saves: the policy of one candidate as
a nesting) and ``training/`` (all weights and moments, counters).  Its number is environment steps plus updates, which
only grows.  ``RUN/policy.yaml`` is the nesting of the checkpoint to deploy, seen from the run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from robopolicy.core import io
from robopolicy.core.errors import CheckpointError
from robopolicy.core.improver import Improver, Work
from robopolicy.training.checkpoint import (
    Progress,
    best_checkpoint,
    checkpoints,
    latest_checkpoint,
    owned,
    read_progress,
    read_tensors,
    step_directory,
    write_checkpoint,
)
from robopolicy.training.tensors import check_fits, flatten_optimizer, restore_optimizer

VERB = "finetune"
POLICY, DEPLOY, BASE = "policy.yaml", "deploy", "base"


@dataclass
class FinetuneProgress(Progress):
    """Where a run is.  ``step`` is environment steps plus updates, a number for checkpoints.

    ``stage``: what comes next: "offline" work, "collect" episodes, "learn" from them, or "measure".  ``round`` counts
    finished rounds; ``indices`` are the numbers given to episodes so far, ``env_steps``, ``episodes`` and
    ``transitions`` what the rounds brought; ``updates`` counts by kind.  ``work`` is the present stage's, of which
    ``done`` updates are done; ``sums`` holds ``[sum, count]`` of each scalar since the last line of the log, and
    ``records`` the lines of the log.  ``base`` and ``frozen`` are hashes; ``improver`` is the method's own state.
    """

    stage: str = "offline"
    round: int = 0
    indices: int = 0
    env_steps: int = 0
    episodes: int = 0
    transitions: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    work: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    records: int = 0
    base: str = ""
    frozen: str | None = None
    improver: dict[str, Any] = field(default_factory=dict)

    @property
    def total_updates(self) -> int:
        """Updates of all kinds."""
        return sum(self.updates.values())

    @property
    def plan(self) -> list[Work]:
        """The present stage's work."""
        return [Work(**work) for work in self.work]

    def begin(self, stage: str, work: tuple[Work, ...] = ()) -> None:
        """Enter a stage with its work."""
        self.stage, self.work, self.done = stage, [dataclasses.asdict(w) for w in work], 0


def save_run(run: Path, improver: Improver, progress: FinetuneProgress, config_yaml: str, base: str) -> Path:
    """Write the checkpoint of ``progress``; ``base`` is the path of the base policy as the nesting shall name it."""
    progress.step = progress.env_steps + progress.total_updates
    progress.improver = improver.extra_state()

    def fill(aside: Path) -> None:
        io.fault_point("before_weights")
        deploy, training = aside / DEPLOY, aside / "training"
        for folder in (deploy, training):
            folder.mkdir()
        nesting = improver.save(deploy, base)
        if nesting != deploy / POLICY:
            nesting.rename(deploy / POLICY)
        _vouch(deploy / POLICY, progress.base)
        modules = improver.modules()
        save_file(owned(modules.state_dict()), training / "model.safetensors")
        io.fault_point("half_way")
        for name, optimizer in improver.optimizers().items():
            save_file(owned(flatten_optimizer(modules, optimizer)), training / f"optimizer_{name}.safetensors")
        io.fault_point("after_weights")
        (training / "state.json").write_text(json.dumps(dataclasses.asdict(progress), indent=1))
        (training / "config.yaml").write_text(config_yaml)

    return write_checkpoint(run, progress.step, VERB, fill)


def _vouch(file: Path, sha256: str) -> None:
    """Note in a nesting around the base, which lies elsewhere, what the base was: no other is loaded in its place."""
    nesting = yaml.safe_load(file.read_text())
    if nesting["type"] == "steered" and sha256:
        file.write_text(yaml.safe_dump({**nesting, "sha256": {"policy": sha256}}, sort_keys=False))


def load_run(path: Path, improver: Improver) -> FinetuneProgress:
    """Restore a verified checkpoint into ``improver``, strictly; returns the counters."""
    folder, modules = path / "training", improver.modules()
    weights = read_tensors(folder / "model.safetensors")
    check_fits(weights, modules.state_dict(), str(folder / "model.safetensors"))
    modules.load_state_dict(weights, strict=True)
    for name, optimizer in improver.optimizers().items():
        restore_optimizer(modules, optimizer, read_tensors(folder / f"optimizer_{name}.safetensors"))
    progress = read_progress(path, FinetuneProgress)
    improver.load_extra_state(progress.improver)
    return progress


def deployed_checkpoint(run: Path, which: str) -> Path | None:
    """The checkpoint that ``policy.yaml`` shall name: ``which`` is "best" (of those evaluated) or "newest"."""
    return best_checkpoint(run) if which == "best" else latest_checkpoint(run)


def point_to(run: Path, checkpoint: Path, env: Mapping[str, Any]) -> Path:
    """Write ``RUN/policy.yaml``: the nesting of ``checkpoint``, its paths seen from the run, with the environment."""
    from robopolicy.nesting import written_source

    folder = checkpoint / DEPLOY

    def seen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: seen(v) for key, v in value.items()}
        if isinstance(value, list):
            return [seen(v) for v in value]
        local = isinstance(value, str) and value and not Path(value).is_absolute() and (folder / value).exists()
        return written_source(str(folder / value), run) if local else value

    nesting = yaml.safe_load((folder / POLICY).read_text())
    text = yaml.safe_dump({**seen(nesting), "env": dict(env)}, sort_keys=False)
    file = run / POLICY
    if not file.is_file() or file.read_text() != text:
        io.write_atomic(file, text)
    return file


def write_base(run: Path, path: str, sha256: str) -> None:
    """Note which policy the run began from."""
    io.write_atomic(run / BASE / "reference.json", json.dumps({"path": path, "sha256": sha256}, indent=1))


def read_base(run: Path) -> dict[str, str]:
    """``path`` and ``sha256`` of the policy that the run began from; empty for a run that was killed before it was
    noted, which has learned nothing."""
    file = run / BASE / "reference.json"
    if not file.exists() and next(checkpoints(run), None) is None:
        return {}
    try:
        data = json.loads(file.read_text())
        return {"path": str(data["path"]), "sha256": str(data["sha256"])}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{file}: cannot be read ({e}); without it the run cannot go on: begin a new one") from e


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 over names, types and bytes of every tensor of a module (that of ``evaluation.provenance``)."""
    from robopolicy.training.tensors import digest

    return digest(module.state_dict())


def deploy_source(base: str, run: Path, step: int) -> str:
    """How the nesting of the checkpoint of ``step`` names the base policy."""
    from robopolicy.nesting import written_source

    return written_source(base, step_directory(run, step) / DEPLOY)
