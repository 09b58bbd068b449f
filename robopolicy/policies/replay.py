"""Where earlier training descents ended, so that later ones may start there.

Source: the replay buffer of Energy-Based Transformers (arXiv 2507.02092).  Differs: it keeps only the dataset row and
the chunk, used again when that row is drawn again, so observations are always encoded anew; and it is part of the
weights on disk, so that a resumed run continues exactly.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError


class Replay(nn.Module):
    """One chunk ``(H, D)`` in model space a slot; a dataset row's slot is the row modulo ``capacity``."""

    chunks: Tensor
    owners: Tensor

    def __init__(self, capacity: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("chunks", torch.zeros(capacity, *shape))
        self.register_buffer("owners", torch.full((capacity,), -1, dtype=torch.long))

    def recall(self, rows: Tensor, start: Tensor, wanted: Tensor) -> Tensor:
        """``start`` ``(n, H, D)`` with the remembered chunks instead where ``wanted`` ``(n,)`` and known."""
        slots = rows % len(self.owners)
        use = wanted & (self.owners[slots] == rows)
        return torch.where(use.view(-1, 1, 1), self.chunks[slots].to(start), start)

    @torch.no_grad()
    def remember(self, rows: Tensor, chunks: Tensor) -> None:
        """Keep where the descents of ``rows`` ended; chunks that are not finite are not kept.

        Raises ``ConfigError`` in a run of several processes: each would remember only its own rows.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise ConfigError("replay works in one process; set policy.replay.capacity to 0 for several")
        good = torch.isfinite(chunks).flatten(1).all(1)
        slots = rows[good] % len(self.owners)
        self.chunks[slots] = chunks[good].to(self.chunks)
        self.owners[slots] = rows[good]
