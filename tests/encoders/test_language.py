"""Language: sentences are told apart, strangers are refused by name, CLIP's tokens are saved with the policy."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from robopolicy.core.errors import ConfigError, InvalidObservation
from robopolicy.encoders import language
from robopolicy.encoders.config import LanguageConfig
from robopolicy.encoders.language import CLIP_DIM, LanguageEncoder

LIFT, PUSH = "lift the cube", "push the cube"
TABLE = LanguageConfig(vocabulary=(LIFT, PUSH), dim=5)
CLIP = LanguageConfig(kind="clip", vocabulary=(LIFT, PUSH), dim=5, length=6)


def test_a_table_gives_each_sentence_its_own_vector():
    encoder = LanguageEncoder(TABLE)
    text = encoder([PUSH, LIFT, PUSH])
    assert (text.tokens.shape, text.mask.shape, text.pooled.shape) == ((3, 1, 5), (3, 1), (3, 5))
    assert (encoder.dim, encoder.token_dim, encoder.length) == (5, 5, 1)
    assert torch.equal(text.pooled[0], text.pooled[2])
    assert not torch.equal(text.pooled[0], text.pooled[1])
    assert torch.equal(text.tokens[:, 0], text.pooled)
    text.pooled.sum().backward()
    assert float(encoder.table.weight.grad.abs().max()) > 0


def test_steps_keep_their_sentences():
    encoder = LanguageEncoder(TABLE)
    steps = np.array([[LIFT, LIFT], [PUSH, LIFT]], dtype=object)
    pooled = encoder.of_steps(steps)
    lift, push = encoder([LIFT, PUSH]).pooled
    torch.testing.assert_close(pooled, torch.stack([torch.stack([lift, lift]), torch.stack([push, lift])]))


@pytest.mark.parametrize("config", [TABLE, CLIP])
def test_a_strange_sentence_is_refused_with_the_nearest_one(config, monkeypatch):
    monkeypatch.setattr(language, "load_clip", lambda folder: (_ for _ in ()).throw(ConfigError("not here")))
    with pytest.raises(InvalidObservation, match=r"task: 'lift the cub' .*did you mean 'lift the cube'"):
        LanguageEncoder(config)([LIFT, "lift the cub"])


def test_an_empty_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocabulary is empty"):
        LanguageEncoder(LanguageConfig())


def fake_text(clip, sentences, length):
    """Stands for the text network: tokens count letters, one token a word."""
    assert clip == "network"
    tokens = torch.zeros(len(sentences), length, CLIP_DIM)
    mask = torch.zeros(len(sentences), length, dtype=torch.bool)
    for row, sentence in enumerate(sentences):
        for i, word in enumerate(sentence.split()[:length]):
            tokens[row, i], mask[row, i] = len(word), True
    return tokens, mask, tokens.sum(1)


def test_clip_tokens_of_the_vocabulary_travel_with_the_weights(monkeypatch):
    calls = []
    monkeypatch.setattr(language, "load_clip", lambda folder: calls.append(folder) or "network")
    monkeypatch.setattr(language, "clip_text", fake_text)
    first = LanguageEncoder(CLIP, load_weights=True)
    assert calls == [None]
    text = first([PUSH])
    assert text.tokens.shape == (1, 6, CLIP_DIM)
    assert text.mask.tolist() == [[True, True, True, False, False, False]]
    assert text.tokens[0, :4, 0].tolist() == [4, 3, 4, 0]
    copy = LanguageEncoder(CLIP)
    copy.load_state_dict(first.state_dict())
    again = copy([PUSH])
    assert torch.equal(again.tokens, text.tokens)
    assert torch.equal(again.pooled, text.pooled)
    assert calls == [None]  # the copy needed no text network ...
    new = copy([LIFT, "open it"])
    assert calls == [None, None]  # ... until a new sentence came
    assert new.tokens[1, :3, 0].tolist() == [4, 2, 0]
    assert torch.equal(new.tokens[0], first([LIFT]).tokens[0])


def test_only_the_projection_of_clip_learns():
    encoder = LanguageEncoder(CLIP)
    assert {n for n, p in encoder.named_parameters() if p.requires_grad} == {"project.weight", "project.bias"}
    assert sum(p.numel() for p in encoder.parameters()) == CLIP_DIM * 5 + 5


def test_clip_without_transformers_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("transformers"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="needs transformers"):
        LanguageEncoder(CLIP, load_weights=True)


def test_clip_without_files_says_where_to_put_them(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"language\.folder"):
        language.load_clip(str(tmp_path))


@pytest.mark.parametrize("changes", [{"dim": 0}, {"length": 78}, {"vocabulary": (LIFT, LIFT)}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError):
        LanguageConfig(**changes)
