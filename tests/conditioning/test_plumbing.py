"""Captions and actions on their way: from the data to the cache, to the model's config, and from the user to the generator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

from vidgen import Condition, UserError, hub
from vidgen.conditioning.text import join_words
from vidgen.data.batches import Order, collate, facts
from vidgen.data.worlds import Worlds
from vidgen.evaluation import measure
from vidgen.training.cache import build_cache, condition_of

COUNT, SEED = 10, 3


def world(tokenizer: Any, **options: Any) -> Worlds:
    return Worlds(frames=tokenizer.spec.frames(3), height=24, width=24, **options)


@pytest.fixture
def tokenizer() -> Any:
    return tiny.tokenizer("lfq").eval()


def cached(tokenizer: Any, data: Any, folder: Path) -> Any:
    how: dict[str, Any] = {"wants": ("ids",), "count": COUNT, "seed": SEED, "batch_size": 4, "device": torch.device("cpu")}
    return build_cache(folder / "latents", tokenizer, data, progress=lambda items, total: items, **how)


def test_the_cache_keeps_captions_and_actions_beside_the_labels(tokenizer: Any, tmp_path: Path) -> None:
    """Those of the clip whose latent it is, though captions of one batch are shorter than those of another."""
    data = world(tokenizer, families=("bounce", "agent"), objects=2, radius=(3, 4))
    cache, order = cached(tokenizer, data, tmp_path), Order(data.size("train"), SEED)
    rows = [7, 2, 9]
    _, condition = cache.read(rows)
    clips = [data.clip("train", *order(row)) for row in rows]
    assert condition.label.tolist() == [clip["label"] for clip in clips]
    assert condition.action.tolist() == [clip["actions"].tolist() for clip in clips]
    spelt = [join_words([data.vocabulary[place - 1] for place in row if place]) for row in condition.text.tolist()]
    assert spelt == [clip["caption"].lower() for clip in clips]
    assert next((tmp_path / "latents").glob("shard-*/text.npy")).stat().st_size < COUNT * 2 * 32 + 200


def test_the_cache_keeps_what_there_is(tokenizer: Any, tmp_path: Path) -> None:
    """No actions where nothing is steered; nothing at all of clips without labels."""
    _, condition = cached(tokenizer, world(tokenizer), tmp_path / "worlds").read([0, 1])
    assert condition.action is None and condition.label is not None and condition.text is not None
    plain = tiny.Clips(tiny.shape_of(tokenizer), classes=0)
    _, condition = cached(tokenizer, plain, tmp_path / "clips").read([0, 1])
    assert condition == Condition()


def test_a_batch_and_the_cache_tell_the_same(tokenizer: Any, tmp_path: Path) -> None:
    data = world(tokenizer, families=("agent", "bounce"))
    order = Order(data.size("train"), SEED)
    batch = collate([data.clip("train", *order(row)) for row in range(COUNT)])
    direct, (_, stored) = condition_of(batch, data), cached(tokenizer, data, tmp_path).read(range(COUNT))
    for name in ("label", "text", "action"):
        assert torch.equal(getattr(direct, name), getattr(stored, name)), name


def test_facts_of_data_that_tells_nothing() -> None:
    assert facts(tiny.Clips(classes=2)) == {"class_names": ("class 0", "class 1"), "action_names": (), "vocabulary": ()}
    assert facts(Worlds(families=("agent",)))["action_names"] == ("noop", "left", "right", "up", "down")


# From the user to the generator


class Listener(torch.nn.Module):
    """A generator that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.told: Condition | None = None

    def sample(self, num: int, shape: Any, condition: Condition | None, **_: Any) -> int:
        self.told = condition
        return num


@pytest.fixture
def model() -> hub.Model:
    decoder = SimpleNamespace(decode=lambda num: torch.zeros(num, 3, 5, 8, 8))
    config = {"shape": [5, 8, 8], "class_names": ["bounce", "agent"], "action_names": ["noop", "left", "right"]}
    return hub.Model(tokenizer=decoder, generator=Listener(), config=config)


def told(model: hub.Model, **options: Any) -> Any:
    model.sample(2, **options)
    assert model.generator is not None
    return model.generator.told


def test_text_and_actions_reach_the_generator(model: hub.Model) -> None:
    assert told(model) is None
    assert told(model, text="A red circle.").text == ["A red circle."] * 2
    assert told(model, text=["one", "two"], label="agent").text == ["one", "two"]
    assert told(model, action="left").action.tolist() == [[1] * 5] * 2
    assert told(model, action=[0, "right", 1, 1, "noop"]).action.tolist() == [[0, 2, 1, 1, 0]] * 2
    moves = torch.tensor([[0, 1, 1, 1, 1], [0, 2, 2, 2, 2]])
    assert torch.equal(told(model, action=moves).action, moves)
    negative = told(model, text="one", negative="two").negative
    assert negative.text == ["two", "two"] and negative.label is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"action": "lift"}, "This model knows no action 'lift'. Did you mean 'left'? Its actions: noop, left, right."),
        ({"action": [0, 1]}, "There are 2 actions for 5 frames: give one for each, or one for all."),
        ({"text": ["a", "b", "c"]}, "'text' has 3 texts for 2 samples: give one for each, or one for all."),
    ],
)
def test_what_cannot_be_told_is_one_sentence(model: hub.Model, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        model.sample(2, **options)
    assert str(error.value) == sentence


def test_a_model_without_actions_says_so(model: hub.Model) -> None:
    model.config["action_names"] = []
    with pytest.raises(UserError, match="This model was trained without actions, so action=left says nothing to it"):
        model.sample(1, action="left")


def test_a_model_that_knows_no_labels_is_measured_without(tokenizer: Any) -> None:
    """Though the data has some: the operations of a sample are counted on one that is told nothing."""
    generator = hub.build_generator(
        tiny.generator_config("maskgit", conditioning={"text": {}}), space=tokenizer.space, num_classes=2, vocabulary=("a",)
    )
    shape = tiny.shape_of(tokenizer)
    model = hub.Model(tokenizer=tokenizer, generator=generator, config={"class_names": ["one", "two"], "shape": list(shape)})
    costs = [measure.costs(model, shape, steps=steps) for steps in (1, 2, 3)]
    assert min(value for name, value in costs[0].items() if name.startswith("generator/")) > 0
    one, two, three = (found["generator/sample_flops"] for found in costs)
    assert three - two == two - one > 0  # of so many steps as samples are drawn in
