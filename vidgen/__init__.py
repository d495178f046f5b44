"""Any video tokenizer meets any generator.

    tok = vidgen.tokenizer("lfq", quantizer={"bits": 12})    # a recipe of configs/tokenizer, untrained, and what to change in it
    gen = vidgen.generator("dit", space=tok.space, num_classes=3)
    losses = gen.loss(tok.encode(video), vidgen.Condition(label=label))
    video = vidgen.load("runs/latest/model").sample(4, label=0)

Videos are float tensors (B, C, T, H, W) in [-1, 1]. Importing this imports neither torch nor any part; using a part does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidgen.errors import UserError
from vidgen.latents import Condition, Latent, LatentSpec

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch

    from vidgen.hub import Model
    from vidgen.protocols import Data, Generator, LatentSpace, Tokenizer

__version__ = "0.1.0"

__all__ = ["Condition", "Latent", "LatentSpec", "UserError", "dataset", "generator", "load", "names", "tokenizer"]


def names(kind: str) -> list[str]:
    """The names of a kind of part: tokenizers, backbones, quantizers, generators, heads, conditioning, data, extractors, metrics.

    Raises:
        UserError: on an unknown kind.
    """
    from vidgen import config

    return config.names(kind)


def tokenizer(name: str, **overrides: Any) -> Tokenizer:
    """An untrained tokenizer, a ``torch.nn.Module``: the recipe ``configs/tokenizer/<name>.yaml`` with ``overrides`` on top.

    Overrides are nested as in the recipe, and a string swaps a part: ``tokenizer("lfq", quantizer="kl", loss={"l1": 0.5})``.

    Raises:
        UserError: on an unknown name or option, or a value of the wrong type.
    """
    from vidgen import config, hub

    built: Tokenizer = hub.build_tokenizer(config.load("tokenizer", name, overrides))
    return built


def generator(
    name: str,
    *,
    space: LatentSpace,
    num_classes: int = 0,
    num_actions: int = 0,
    vocabulary: Sequence[str] = (),
    **overrides: Any,
) -> Generator:
    """An untrained generator, a ``torch.nn.Module``: the recipe ``configs/generator/<name>.yaml`` with ``overrides`` on top.

    Args:
        name: the recipe.
        space: the ``space`` of the tokenizer whose latents it learns.
        num_classes: labels that the data has; 0 for none.
        num_actions: actions that it has; 0 for none.
        vocabulary: the words of its captions, for a model that learns them by itself.
        overrides: options of the recipe.

    Raises:
        UserError: on an unknown name or option, or a value of the wrong type.
    """
    from vidgen import config, hub

    recipe = config.load("generator", name, overrides)
    built: Generator = hub.build_generator(
        recipe, space=space, num_classes=num_classes, num_actions=num_actions, vocabulary=vocabulary
    )
    return built


def dataset(name: str, **overrides: Any) -> Data:
    """A data set: the recipe ``configs/data/<name>.yaml`` with ``overrides`` on top.

    Raises:
        UserError: on an unknown name or option, or a value of the wrong type.
    """
    from vidgen import config, registry

    built: Data = registry.build("data", config.load("data", name, overrides))
    return built


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Model:
    """A trained model, ready to use: a run's folder, a ``model`` folder or ``hf-hub:organisation/name``.

    Raises:
        UserError: where there is no model.
    """
    from vidgen import hub

    return hub.load(path, device)
