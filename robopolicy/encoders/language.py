"""The task's sentence as tokens and as one vector.

``table``: one learned vector a sentence, for a handful of tasks.  ``clip``: the last hidden states of CLIP's text
network (Radford et al. 2021; 512 numbers a token for ViT-B/32), as 3D Diffuser Actor reads them.  That network is
frozen, so the sentences of the vocabulary are encoded once, when a policy is first built, and saved with its weights: a
loaded policy needs no text network.  Sentences outside the vocabulary are encoded when the network is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robopolicy.core.errors import ConfigError, InvalidObservation, did_you_mean
from robopolicy.core.specs import TASK
from robopolicy.encoders.config import LanguageConfig

CLIP_NAME = "openai/clip-vit-base-patch32"
CLIP_DIM = 512


@dataclass(frozen=True)
class Text:
    """``tokens`` ``(N, Lt, token_dim)``; ``mask`` ``(N, Lt)`` bool, false for padding; ``pooled`` ``(N, dim)``."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class LanguageEncoder(nn.Module):
    """``N`` sentences to ``Text``.

    ``dim`` is the size of ``pooled`` and ``token_dim`` that of ``tokens`` (equal for ``table``); ``length`` is ``Lt``.
    """

    def __init__(self, config: LanguageConfig, load_weights: bool = False) -> None:
        """``load_weights`` runs CLIP's text network over the vocabulary (never a download); else zeros wait for a file.

        Raises ``ConfigError`` for an empty vocabulary and for a text network that is not on this machine.
        """
        super().__init__()
        if not config.vocabulary:
            raise ConfigError(
                "language.vocabulary is empty: training fills it with the tasks of the data; else list the sentences"
            )
        self.config, self.dim = config, config.dim
        self.rows = {sentence: row for row, sentence in enumerate(config.vocabulary)}
        count = len(config.vocabulary)
        if config.kind == "table":
            self.token_dim, self.length = config.dim, 1
            self.table = nn.Embedding(count, config.dim)
            return
        self.token_dim, self.length = CLIP_DIM, config.length
        self.project = nn.Linear(CLIP_DIM, config.dim)
        self._clip: Any = None
        self.register_buffer("known_tokens", torch.zeros(count, config.length, CLIP_DIM))
        self.register_buffer("known_mask", torch.zeros(count, config.length, dtype=torch.bool))
        self.register_buffer("known_pooled", torch.zeros(count, CLIP_DIM))
        if load_weights:
            for name, value in zip(("tokens", "mask", "pooled"), self._encode(config.vocabulary), strict=True):
                self.get_buffer("known_" + name).copy_(value)
            self._clip = None  # copies of a policy need not carry the text network

    def forward(self, sentences: Sequence[str]) -> Text:
        """Raises ``InvalidObservation`` naming the nearest known sentence for one that cannot be encoded."""
        if self.config.kind == "table":
            vector = self.table(self._known(sentences))
            mask = torch.ones(len(vector), 1, dtype=torch.bool, device=vector.device)
            return Text(vector[:, None], mask, vector)
        if all(s in self.rows for s in sentences):
            rows = self._known(sentences)
            parts = [self.get_buffer("known_" + name)[rows] for name in ("tokens", "mask", "pooled")]
        else:
            parts = [p.to(self.project.weight.device) for p in self._novel(sentences)]
        return Text(parts[0], parts[1], self.project(parts[2]))

    def of_steps(self, sentences: np.ndarray) -> Tensor:
        """``pooled`` ``(B, To, dim)`` of an object array ``(B, To)``; each different sentence is encoded once."""
        different, rows = np.unique(sentences.astype(str), return_inverse=True)
        pooled = self(different.tolist()).pooled
        return pooled[torch.from_numpy(rows.reshape(sentences.shape)).to(pooled.device)]

    def _known(self, sentences: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        for sentence in sentences:
            if sentence not in self.rows:
                raise InvalidObservation(_unknown(sentence, self.rows))
        return torch.tensor([self.rows[s] for s in sentences], device=device)

    def _novel(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        try:
            return self._encode(tuple(sentences))
        except ConfigError as e:
            stranger = next(s for s in sentences if s not in self.rows)
            raise InvalidObservation(f"{_unknown(stranger, self.rows)}; new sentences need the network: {e}") from e

    def _encode(self, sentences: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
        if self._clip is None:
            self._clip = load_clip(self.config.folder)
        return clip_text(self._clip, sentences, self.config.length)


def load_clip(folder: str | None) -> tuple[Any, Any]:
    """Tokenizer and frozen text network from ``folder`` or the local hub cache; ``ConfigError`` when not there."""
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as e:
        raise ConfigError("language.kind clip needs transformers; pip install transformers, or use kind table") from e
    name = folder or CLIP_NAME
    try:
        tokenizer = CLIPTokenizer.from_pretrained(name, local_files_only=True)
        model = CLIPTextModel.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise ConfigError(
            f"no CLIP text network in '{name}' ({reason}); nothing is downloaded: put its files into a folder and name "
            "it in language.folder, or use kind table"
        ) from e
    return tokenizer, model.eval().requires_grad_(False)


@torch.no_grad()
def clip_text(clip: tuple[Any, Any], sentences: Sequence[str], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """``(tokens (N, length, 512), mask (N, length), pooled (N, 512))``; longer sentences are cut."""
    tokenizer, model = clip
    encoded = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    out = model(input_ids=encoded["input_ids"])
    return out.last_hidden_state, encoded["attention_mask"].bool(), out.pooler_output


def _unknown(sentence: str, known: Sequence[str] | dict[str, int]) -> str:
    return f"{TASK}: '{sentence}' is not a sentence this policy was trained on" + did_you_mean(sentence, known)
