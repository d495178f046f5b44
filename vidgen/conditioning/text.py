"""``text``: a caption, as tokens for cross-attention and one pooled vector."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.conditioning.base import Part
from vidgen.errors import UserError, did_you_mean
from vidgen.latents import Condition
from vidgen.nn.rope import rotary_table
from vidgen.nn.trunk import Trunk

ENCODERS = {"t5": "T5EncoderModel", "clip": "CLIPTextModel", "clip_text_model": "CLIPTextModel"}
"""The text encoders of ``transformers`` that can be taken from a folder, by the ``model_type`` of its config.json."""


def split_words(text: str) -> list[str]:
    """The words of a text in small letters, each mark of punctuation a word by itself."""
    return re.findall(r"[^\W_]+|[^\w\s]|_", text.lower())


def join_words(words: Sequence[str]) -> str:
    """A text of these words: the inverse of :func:`split_words` but for capitals and spaces."""
    return re.sub(r" ([.,;:!?])", r"\1", " ".join(words))


def word_ids(texts: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    """Captions as (B, M) words counted from 1, filled up with 0, the padding; M is the longest one's.

    Raises:
        UserError: on a word that is not in the vocabulary, naming the nearest.
    """
    index = {word: place for place, word in enumerate(vocabulary, start=1)}
    split = [split_words(text) for text in texts]
    for text, words in zip(texts, split, strict=True):
        for word in words:
            if word not in index:
                raise UserError(f"'{word}' in the text '{text}' is no word of the captions.{did_you_mean(word, vocabulary)}")
    ids = torch.zeros(len(texts), max(map(len, split), default=0), dtype=torch.long)
    for row, words in zip(ids, split, strict=True):
        row[: len(words)] = torch.tensor([index[word] for word in words], dtype=torch.long)
    return ids


class Text(Part):
    """A small transformer over the words of the captions, trained with the model, or over what a frozen encoder makes of them.

    The tokens are its output; the vector is their mean through a linear layer, or one that is learned where there is no text.
    Tokens for cross-attention as in Muse (Chang et al., 2023) and a pooled vector for modulation as in Esser et al. (2024).

    Args:
        width: channels of a token.
        vocabulary: the words of the data's captions.
        dropout: share of training clips that are not told theirs, for guidance.
        depth: blocks of the transformer.
        heads: its attention heads.
        pretrained: a folder with a T5 or a CLIP text encoder as ``transformers`` saves it. It is frozen, not saved with the
            model, and reads captions of any words.

    Raises:
        UserError: where the data has no captions to learn words from, or the pretrained encoder or its package is not there.
    """

    field = "text"
    context = True

    def __init__(
        self,
        *,
        width: int,
        vocabulary: tuple[str, ...],
        dropout: float = 0.1,
        depth: int = 2,
        heads: int = 4,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(dropout)
        if not vocabulary and pretrained is None:
            raise UserError("This data has no captions, so a generator cannot be told them: leave 'text' out.")
        self.vocabulary, self.pretrained = vocabulary, pretrained
        self.embedding: nn.Module
        if pretrained is None:
            self.embedding = nn.Embedding(len(vocabulary) + 1, width, padding_idx=0)
            nn.init.normal_(self.embedding.weight, std=0.02)
        else:
            self.embedding = nn.Linear(_pretrained_width(pretrained), width)
        self.trunk = Trunk(width=width, depth=depth, heads=heads)
        self.pool = nn.Linear(width, width)
        self.null = nn.Parameter(torch.randn(width) * 0.02)

    def told(self, condition: Condition, batch: int, cells: int, start: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """(batch, 1, width), the mean of the tokens, and these: captions are read once."""
        found = self.tokens(condition, batch)
        if found is None:
            return self.null.expand(batch, 1, -1), None
        tokens, there = found
        count = there.sum(1, keepdim=True).clamp_min(1)
        pooled = self.pool((tokens * there.unsqueeze(-1)).sum(1) / count)
        return torch.where(there.any(1, keepdim=True), pooled, self.null).unsqueeze(1), found

    def tokens(self, condition: Condition, batch: int) -> tuple[Tensor, Tensor] | None:
        if condition.text is None:
            return None
        x, there = self._read(condition.text)
        if not x.shape[1]:
            return None
        rope = rotary_table(
            torch.arange(x.shape[1], device=x.device)[:, None] * torch.tensor([1, 0, 0], device=x.device), self.trunk.head_dim
        )
        seen = there | ~there.any(1, keepdim=True)  # a softmax over nothing is not a number
        return self.trunk(x, x.new_zeros(len(x), 1, x.shape[-1]), rope, seen[:, None, None]), there

    def _read(self, text: Sequence[str] | Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, width) and (B, M) which of them are words."""
        device = self.null.device
        if self.pretrained is None:
            ids = (text if isinstance(text, Tensor) else word_ids(text, self.vocabulary)).to(device).long()
            return self.embedding(ids), ids > 0
        features, there = _pretrained_features(self.pretrained, tuple(self._spelt(text)), device)
        return self.embedding(features.to(self.null.dtype)), there

    def _spelt(self, text: Sequence[str] | Tensor) -> list[str]:
        if not isinstance(text, Tensor):
            return list(text)
        return [join_words([self.vocabulary[place - 1] for place in row if place > 0]) for row in text.tolist()]

    def check(self, condition: Condition) -> None:
        if self.pretrained is None and isinstance(condition.text, list):
            word_ids(condition.text, self.vocabulary)

    def silence(self, condition: Condition, clips: Tensor) -> Condition:
        text = condition.text
        if isinstance(text, Tensor):
            return replace(condition, text=text.masked_fill(clips.to(text.device)[:, None], 0))
        return replace(
            condition, text=["" if gone else caption for caption, gone in zip(text or (), clips.tolist(), strict=True)]
        )


def _pretrained_config(folder: str) -> Mapping[str, Any]:
    """The config.json of an encoder's folder.

    Raises:
        UserError: where it or the package that runs it is not there, or it is of another kind.
    """
    if find_spec("transformers") is None:
        raise UserError('A pretrained text encoder needs a package that is not installed: pip install "vidgen[text]".')
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"There is no pretrained text encoder in '{folder}': it has no config.json, as transformers saves one.")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") not in ENCODERS:
        raise UserError(f"'{folder}' holds a model of the type {config.get('model_type')}, and not {' or '.join(ENCODERS)}.")
    return config


def _pretrained_width(folder: str) -> int:
    config = _pretrained_config(folder)
    text = config.get("text_config") or config
    return int(text.get("d_model") or text.get("hidden_size") or 512)


@cache
def _pretrained(folder: str) -> tuple[Any, Any]:
    """Its tokenizer and its encoder, loaded when first used, and shared by all models: it is no part of their weights."""
    import transformers

    encoder = getattr(transformers, ENCODERS[_pretrained_config(folder)["model_type"]])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, encoder.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # what was read in sampling is learnt from in training too
@torch.no_grad()
def _pretrained_features(folder: str, texts: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, M, its width) and (B, M) which of them are there: none of an empty text.

    The last few are kept: a step asks twice, and every step of a sampling the same.
    """
    tokenizer, encoder = _pretrained(folder)
    found = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
    features = encoder.to(device)(input_ids=found.input_ids, attention_mask=found.attention_mask).last_hidden_state
    told = torch.tensor([bool(text.strip()) for text in texts], device=device)
    return features, found.attention_mask.bool() & told[:, None]
