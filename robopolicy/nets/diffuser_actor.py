"""The networks of 3D Diffuser Actor: what is computed once per observation, and the denoiser of poses.

Source: Ke et al. 2024 (arXiv 2402.10885), section 5 of our spec; parameter counts of the released models to the unit.
Differs: text is attended to correctly in batches and its padding can be masked; without a text width the text layers
are absent; keys and values of the scene are computed once per observation; parts that the released network builds and
never uses exist only with ``parity``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError
from robopolicy.nets.embeddings import batch_times, sinusoid
from robopolicy.nets.relative_attention import KeysValues, PointBlock, TextLayer
from robopolicy.nets.rotary3d import RotaryCode, check_rotary_width, rotary_code, take_tokens

POSE = 9  # position 3, rotation 6


@dataclass(frozen=True)
class ActorSizes:
    """Widths and depths; the defaults are those of the released key-pose models but for the width."""

    dim: int = 192
    heads: int = 8
    num_history: int = 3
    text_dim: int = 0
    """Width of the text tokens; 0 leaves the text layers out."""
    text_in_blocks: bool = False
    """Also attend to text inside the denoiser's blocks (``lang_enhanced`` of the released code)."""
    state_dim: int = 0
    """Numbers of proprioception added to the conditioning; the released networks have none."""
    scene_layers: int = 2
    history_layers: int = 3
    cross_layers: int = 2
    self_layers: int = 4
    branch_layers: int = 2
    rotary_base: float = 10_000.0
    rotary_scale: float = 1.0
    dropout: float = 0.1
    gripper: bool = True
    place_tokens: bool = False
    """Add a linear map of its place to each scene token, so that attention can also carry places (not the paper's)."""
    parity: bool = False
    """Build the unused parts of the released network, and accept widths whose rotary pairs straddle heads."""

    def __post_init__(self) -> None:
        check_rotary_width(self.dim, self.heads, straddle=self.parity)

    def code(self, positions: Tensor) -> RotaryCode:
        """Rotary code of normalised positions ``(B, N, 3)``."""
        return rotary_code(positions, self.dim, self.rotary_base, self.rotary_scale)


class SceneTokens(NamedTuple):
    """A scene as the denoiser reads it; everything here is computed once per observation.

    ``tokens`` ``(B, N, C)`` at normalised ``positions`` ``(B, N, 3)``; ``history`` ``(B, C)``; ``subset`` ``(B, k)``
    indices of the tokens that take part in self-attention; ``valid`` ``(B, N)`` is True where a token has a place;
    ``text`` ``(B, S, C)`` and ``text_mask`` ``(B, S)``, True where there is a word.
    """

    tokens: Tensor
    positions: Tensor
    history: Tensor
    subset: Tensor
    valid: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None


def _wide(mask: Tensor | None) -> Tensor | None:
    """A key mask ``(B, S)`` as attention takes it."""
    return None if mask is None else mask[:, None, None, :]


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class SceneReader(nn.Module):
    """Scene tokens that know the text, and the gripper's history as one vector (spec 5.1 to 5.2)."""

    def __init__(self, sizes: ActorSizes) -> None:
        super().__init__()
        self.sizes, dim = sizes, sizes.dim
        self.text_in = nn.Linear(sizes.text_dim, dim) if sizes.text_dim else None
        self.place_in = nn.Linear(3, dim) if sizes.place_tokens else None
        layers = sizes.scene_layers if sizes.text_dim else 0
        self.scene_text = nn.ModuleList(TextLayer(dim, sizes.heads, sizes.dropout) for _ in range(layers))
        self.history_query = nn.Parameter(torch.randn(sizes.num_history, dim))
        self.history = nn.ModuleList(PointBlock(dim, sizes.heads, modulated=False) for _ in range(sizes.history_layers))
        self.history_out = _perceptron(sizes.num_history * dim, dim, dim)
        self.state_in = nn.Linear(sizes.state_dim, dim) if sizes.state_dim else None
        self.goal_query = nn.Parameter(torch.randn(1, dim)) if sizes.parity else None

    def read_text(self, text: Tensor) -> Tensor:
        """Text tokens ``(B, S, text_dim)`` at the width of the network."""
        if self.text_in is None:
            raise ConfigError("the network has no text layers; give it a text width")
        out: Tensor = self.text_in(text)
        return out

    def forward(
        self, tokens: Tensor, positions: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None
    ) -> Tensor:
        """Scene tokens ``(B, N, C)`` at normalised ``positions`` after attending to ``text`` ``(B, S, C)``."""
        if self.place_in is not None:
            tokens = tokens + self.place_in(positions)
        if text is not None:
            for layer in self.scene_text:
                tokens = layer(tokens, text, _wide(text_mask))
        return tokens

    def read_history(
        self,
        tokens: Tensor,
        positions: Tensor,
        places: Tensor,
        state: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Where the gripper was, ``places`` ``(B, num_history, 3)`` normalised, among the tokens, as ``(B, C)``.

        ``state`` ``(B, state_dim)``; ``valid`` as in ``SceneTokens``.
        """
        memory, code = self.sizes.code(positions), self.sizes.code(places)
        x = self.history_query.expand(len(tokens), -1, -1)
        for block in self.history:
            assert isinstance(block, PointBlock)
            x = block.cross(x, block.keys_values(tokens, memory), code, mask=_wide(valid))
        out: Tensor = self.history_out(x.flatten(1))
        return out if self.state_in is None or state is None else out + self.state_in(state)


class HeadMemory(NamedTuple):
    """What the denoiser derives from a scene alone, so that all its steps share it."""

    cross: tuple[KeysValues, ...]
    subset: Tensor
    subset_code: RotaryCode


class PoseDenoiser(nn.Module):
    """Noise of poses ``(N, L, 9)`` and gripper logits ``(N, L)`` from noisy poses, a time and a scene (spec 5.4)."""

    def __init__(self, sizes: ActorSizes) -> None:
        super().__init__()
        self.sizes, dim, heads = sizes, sizes.dim, sizes.heads
        self.pose_in = nn.Linear(POSE, dim)
        self.time = _perceptron(dim, dim, dim)
        self.text = TextLayer(dim, heads, sizes.dropout, feed=sizes.parity) if sizes.text_dim else None
        self.cross = nn.ModuleList(PointBlock(dim, heads) for _ in range(sizes.cross_layers))
        self.together = self._blocks(sizes.self_layers)
        self.rotation = self._blocks(sizes.branch_layers)
        self.rotation_proj = nn.Linear(dim, dim)
        self.rotation_out = _perceptron(dim, dim, POSE - 3)
        self.position = self._blocks(sizes.branch_layers)
        self.position_proj = nn.Linear(dim, dim)
        self.position_out = _perceptron(dim, dim, 3)
        self.gripper_out = _perceptron(dim, dim, 1) if sizes.gripper else None

    def _blocks(self, count: int) -> nn.ModuleList:
        texts = max(1, count - 1) if self.sizes.text_dim and self.sizes.text_in_blocks else 0
        return nn.ModuleList(PointBlock(self.sizes.dim, self.sizes.heads, text=i < texts) for i in range(count))

    def prepare(self, scene: SceneTokens) -> HeadMemory:
        """Keys and values of the scene, and its subset."""
        code = self.sizes.code(scene.positions)
        cross = tuple(block.keys_values(scene.tokens, code) for block in self._each(self.cross))
        return HeadMemory(cross, take_tokens(scene.tokens, scene.subset), code.gather(scene.subset))

    @staticmethod
    def _each(blocks: nn.ModuleList) -> Sequence[PointBlock]:
        return [block for block in blocks if isinstance(block, PointBlock)]

    def forward(
        self, x: Tensor, t: Tensor, scene: SceneTokens, memory: HeadMemory | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Noise ``(N, L, 9)`` and gripper logits ``(N, L)`` (``None`` without a gripper) of ``x`` ``(N, L, 9)``.

        ``t`` ``()`` or ``(N,)`` counts noise levels; ``memory`` is ``prepare(scene)``, made here when absent.
        """
        memory = self.prepare(scene) if memory is None else memory
        dtype, length = self.pose_in.weight.dtype, x.shape[1]
        z = self.time(sinusoid(batch_times(t, len(x), x.device), self.sizes.dim).to(dtype)) + scene.history
        steps = sinusoid(torch.arange(length, device=x.device), self.sizes.dim).to(dtype)
        mask = _wide(scene.text_mask)
        h = self.pose_in(x)
        if self.text is not None and scene.text is not None:
            h = self.text(h + steps, scene.text, mask, feed=False)
        h = h + steps
        code = self.sizes.code(x[..., :3])
        for block, points in zip(self._each(self.cross), memory.cross, strict=True):
            h = block.cross(h, points, code, z, _wide(scene.valid))
        u, code = torch.cat((h, memory.subset), 1), code.cat(memory.subset_code)

        def through(blocks: nn.ModuleList, tokens: Tensor) -> Tensor:
            for block in self._each(blocks):
                tokens = block.itself(tokens, code, z, scene.text, mask)
            return tokens

        u = through(self.together, u)
        rotation = self.rotation_out(self.rotation_proj(through(self.rotation, u)[:, :length]))
        position = self.position_proj(through(self.position, u)[:, :length])
        noise = torch.cat((self.position_out(position), rotation), -1)
        return noise, None if self.gripper_out is None else self.gripper_out(position).squeeze(-1)


def part_counts(reader: SceneReader, denoiser: PoseDenoiser) -> Mapping[str, int]:
    """Numbers of parameters by the parts of the paper's table (section 5.6 of the spec), and ``other``."""
    parts = {
        "vision_language": reader.scene_text,
        "gripper_head": reader.history,
        "language_to_trajectory": denoiser.text,
        "cross": denoiser.cross,
        "self": denoiser.together,
        "rotation_branch": denoiser.rotation,
        "position_branch": denoiser.position,
    }
    counts = {name: _count(module) for name, module in parts.items()}
    return {**counts, "other": _count(reader) + _count(denoiser) - sum(counts.values())}


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
