"""Checkpoints: ``RUN/checkpoints/step_000123/`` with ``policy/`` (averaged weights, loadable alone) and ``training/``.

Critics have ``critic/`` in the place of ``policy/``.

Built aside, hashed, renamed: a reader sees a whole checkpoint or none.  Weights are safetensors, the rest JSON and
YAML; nothing that is read can run code.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robopolicy.core import io
from robopolicy.core.errors import CheckpointError
from robopolicy.training.tensors import check_fits, flatten_optimizer, restore_optimizer

log = logging.getLogger(__name__)

KIND = "checkpoint"
FOLDER = "checkpoints"
STEP_NAME = re.compile(r"step_(\d{6,})$")


@dataclass
class Progress:
    """What a resumed run must know besides tensors.

    ``skipped``: recent steps with a non-finite gradient; ``score``: higher is better, compared left to right;
    ``data``: what identifies the training windows; ``loss_sum``/``loss_count``: the mean under way since the last
    log line; ``elapsed``: seconds of training so far.
    """

    step: int = 0
    ema_calls: int = 0
    skipped: list[int] = field(default_factory=list)
    score: list[float] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    loss_sum: float = 0.0
    loss_count: int = 0
    elapsed: float = 0.0


@dataclass(frozen=True)
class Stored:
    """What a run trains: the folder of the result in a checkpoint, what writes that folder, the verb that resumes."""

    folder: str
    write: Callable[[Any, Path], None]
    verb: str


def _write_policy(policy: Any, directory: Path) -> None:
    from robopolicy.policies.io import write_policy_files

    write_policy_files(policy, directory)


POLICY = Stored("policy", _write_policy, "train")


def step_directory(run: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lives."""
    return Path(run) / FOLDER / f"step_{step:06d}"


def save_checkpoint(
    run: Path,
    averaged: nn.Module,
    live: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    config_yaml: str,
    stored: Stored = POLICY,
) -> Path:
    """Write one checkpoint; ``CheckpointError`` in one line when the disk refuses, earlier checkpoints untouched."""
    return write_checkpoint(
        run,
        progress.step,
        stored.verb,
        lambda aside: _write(aside, averaged, live, optimizer, progress, config_yaml, stored),
    )


def write_checkpoint(run: Path, step: int, verb: str, fill: Callable[[Path], None]) -> Path:
    """The checkpoint of ``step``, whose files ``fill`` writes; ``verb`` is the command that resumes the run."""
    target = step_directory(run, step)
    try:
        with io.atomic_directory(target, KIND) as aside:
            fill(aside)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(
            f"could not save {target}: {e}; earlier checkpoints are untouched: free the disk, "
            f"then robopolicy {verb} --resume {run}"
        ) from e
    return target


def _write(
    aside: Path,
    averaged: nn.Module,
    live: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    config_yaml: str,
    stored: Stored,
) -> None:
    io.fault_point("before_weights")
    stored.write(averaged, aside / stored.folder)
    training = aside / "training"
    training.mkdir()
    save_file(owned(live.state_dict()), training / "model.safetensors")
    io.fault_point("half_way")
    save_file(owned(flatten_optimizer(live, optimizer)), training / "optimizer.safetensors")
    io.fault_point("after_weights")
    (training / "state.json").write_text(json.dumps(asdict(progress), indent=1))
    (training / "config.yaml").write_text(config_yaml)


def owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of ``tensors`` on the CPU: safetensors refuses tensors that share memory (tied weights)."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}


def verify_checkpoint(path: str | Path) -> Path:
    """``path`` if every byte of the checkpoint is what was saved, else ``CheckpointError`` naming the file."""
    path = Path(path)
    io.verify_manifest(path, KIND)
    return path


P = TypeVar("P", bound=Progress)


def read_progress(path: Path, kind: type[P] = Progress) -> P:  # type: ignore[assignment]
    """The counters of a checkpoint, as an instance of ``kind``."""
    file = path / "training" / "state.json"
    try:
        data = json.loads(file.read_text())
        return kind(**{f.name: data[f.name] for f in fields(kind)})
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{file}: unreadable training state ({e})") from e


def load_training(path: Path, live: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore live weights and optimiser of a verified checkpoint, strictly; returns the counters."""
    weights = read_tensors(path / "training" / "model.safetensors")
    check_fits(weights, live.state_dict(), str(path / "training" / "model.safetensors"))
    live.load_state_dict(weights, strict=True)
    restore_optimizer(live, optimizer, read_tensors(path / "training" / "optimizer.safetensors"))
    return read_progress(path)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file, or ``CheckpointError``."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{file}: unreadable ({e})") from e


def checkpoints(run: str | Path) -> Iterator[Path]:
    """Finished checkpoints of a run, newest first (finished: the manifest is there; damage is not looked for)."""
    found = [p for p in (Path(run) / FOLDER).glob("step_*") if STEP_NAME.match(p.name) and io.is_complete(p)]
    yield from sorted(found, key=lambda p: int(STEP_NAME.match(p.name)[1]), reverse=True)  # type: ignore[index]


def latest_checkpoint(run: str | Path, sweep: bool = False) -> Path | None:
    """Newest checkpoint whose every byte is right; damaged ones are skipped with a warning.

    ``sweep`` also removes what interrupted saves left; only the trainer may ask for it, because a save may be under
    way in another process.
    """
    if sweep:
        io.sweep_partial(Path(run) / FOLDER)
    for path in checkpoints(run):
        try:
            return verify_checkpoint(path)
        except CheckpointError as e:
            log.warning("skipping a damaged checkpoint: %s", e)
    return None


def readable_progress(run: str | Path) -> dict[Path, Progress]:
    """Counters of every finished checkpoint, newest first; damaged ones are left out with a warning."""
    found: dict[Path, Progress] = {}
    for path in checkpoints(run):
        try:
            found[path] = read_progress(path)
        except CheckpointError as e:
            log.warning("skipping a damaged checkpoint: %s", e)
    return found


def best_checkpoint(run: str | Path) -> Path | None:
    """Undamaged checkpoint with the best score (of equals the newest), else the newest undamaged one."""
    scored = [(p.score, path) for path, p in readable_progress(run).items() if p.score is not None]
    for _, path in sorted(scored, key=lambda pair: pair[0], reverse=True):
        try:
            return verify_checkpoint(path)
        except CheckpointError as e:
            log.warning("skipping a damaged checkpoint: %s", e)
    return latest_checkpoint(run)
