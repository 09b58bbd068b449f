"""Independent questions to several networks at once, each in a thread that is always the same one (CPU).

One small network on one observation is bound by reading its weights, so a second core does little for it but answers
another network in the same time.  A network keeps its buffers by thread (``nets.unet1d_cached``), hence one lane for
every place in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Answer = TypeVar("Answer")


def _alone() -> None:
    # A new thread takes the process's number at its first question, and would forget what was set before that.
    torch.get_num_threads()
    torch.set_num_threads(1)


@cache
def _lane(place: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, f"lane-{place}", initializer=_alone)


def worth_it(questions: int, x: torch.Tensor) -> bool:
    """Whether lanes may be used for inputs like ``x``: several questions, no gradient, on a CPU, as many threads."""
    return 1 < questions <= torch.get_num_threads() and x.device.type == "cpu" and not torch.is_grad_enabled()


def side_by_side(questions: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """The answers in their order; the first question is asked in this thread.  An exception of any is raised here."""
    inference = torch.is_inference_mode_enabled()

    def ask(question: Callable[[], Answer]) -> Answer:
        with torch.inference_mode(inference), torch.no_grad():
            return question()

    others = [_lane(place).submit(ask, question) for place, question in enumerate(questions[1:], 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = questions[0]()
    finally:
        torch.set_num_threads(threads)
        done = [other.exception() for other in others]  # nobody may still work on what the caller takes back
    for error in done:
        if error is not None:
            raise error
    return [first, *(other.result() for other in others)]
