"""Run by test_finetune_kill.py in a process of its own: forks fine-tuning runs, kills them, resumes them.

One warmed process forks all children, because importing torch for each would take minutes.  A trial kills its child
with SIGKILL at a named moment: in the middle of an episode, between rows and the line that counts them, among updates,
in a checkpoint's writing.  Prints one JSON object a trial.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from robopolicy.core import io
from robopolicy.rl.replay_files import EpisodeList
from robopolicy.testing.finetuning import curve, replay_digest, tiny_base, tiny_finetune_config
from robopolicy.testing.improvers import ImitateAll, NoisyExplorer
from robopolicy.testing.training import final_tensors
from robopolicy.training.finetune import finetune

SAVING = ("before_weights", "half_way", "after_weights", "before_manifest", "before_rename", "after_rename")


def die() -> None:
    """At once, as kill -9 does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(owner: type, method: str, number: int, after: bool = False) -> Callable[[], None]:
    """Arms a kill before (or after) the ``number``-th call of a method."""

    def arm() -> None:
        own, left = getattr(owner, method), [number]

        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                die()
            result = own(*args, **kwargs)
            if left[0] == 0:
                die()
            return result

        setattr(owner, method, counted)

    return arm


def at_point(name: str, occurrence: int) -> Callable[[], None]:
    """Arms a kill where a checkpoint's (or a replay's) writing passes a named point."""

    def arm() -> None:
        left = [occurrence]

        def fault_point(passed: str) -> None:
            left[0] -= passed == name
            if passed == name and left[0] == 0:
                die()

        io.fault_point = fault_point

    return arm


# Rounds have 2 + 3 + 3 episodes of at most three decisions, then three updates of each of two kinds.
MOMENTS: dict[str, Callable[[], None]] = {
    "collecting, first round": at_call(NoisyExplorer, "explore", 2),
    "collecting, second round": at_call(NoisyExplorer, "explore", 8),
    "collecting, last round": at_call(NoisyExplorer, "explore", 14),
    "some columns of an episode written": at_point("replay_action.bin", 4),
    "rows written, not counted": at_call(EpisodeList, "append", 4),
    "episode counted": at_call(EpisodeList, "append", 4, after=True),
    "last episode of a round counted": at_call(EpisodeList, "append", 5, after=True),
    "first update": at_call(ImitateAll, "step", 1),
    "among updates": at_call(ImitateAll, "step", 11),
    "after the last update": at_call(ImitateAll, "step", 18, after=True),
    **{f"saving, {point}": at_point(point, 3) for point in SAVING},
}


def killed(config, run: Path, arm: Callable[[], None], resume: bool) -> int:
    """Run in a forked child that dies where ``arm`` says; the signal it died of."""
    pid = os.fork()
    if pid == 0:
        try:
            arm()
            finetune(config, run, resume, progress=False)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def equal(run: Path, reference: Path) -> dict[str, bool]:
    """Whether weights and moments, replay, and curves are the same to the bit."""
    ours, theirs = final_tensors(run), final_tensors(reference)
    return {
        "tensors": ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours),
        "replay": replay_digest(run) == replay_digest(reference),
        "curves": curve(run) == curve(reference),
    }


def main(folder: Path) -> None:
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    # A killed process loses nothing that it wrote (only a power cut does), and thousands of fsyncs take minutes.
    os.fsync = lambda fd: None
    config = tiny_finetune_config(tiny_base(folder / "base"))
    finetune(config, folder / "reference", progress=False)
    for i, (moment, arm) in enumerate(MOMENTS.items()):
        run = folder / f"run{i}"
        died_of = killed(config, run, arm, resume=False)
        held = [json.loads(line) for line in _lines(run)]
        finetune(config, run, resume=True, progress=False)
        kept = [json.loads(line) for line in _lines(run)][: len(held)]
        left = sorted(p.name for p in (run / "checkpoints").glob(".partial-*"))
        told = {"moment": moment, "died_of": died_of, "kept": kept == held, "left_over": left}
        print(json.dumps(told | equal(run, folder / "reference")), flush=True)


def _lines(run: Path) -> list[str]:
    file = run / "replay" / "episodes.jsonl"
    text = file.read_text() if file.is_file() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
