"""What a generator is told: nulls, dropouts, each part by itself, and guidance over all of them."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vidgen import Condition, Latent, LatentSpec, UserError, config, registry
from vidgen.conditioning import Conditioner, text
from vidgen.conditioning.text import ENCODERS, join_words, split_words, word_ids
from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import Trunk
from vidgen.samplers.guidance import GuidanceOptions
from vidgen.samplers.masks import TASKS, task_mask

WIDTH, CLASSES, ACTIONS, BATCH = 32, 3, 5, 4
WORDS = ("a", "red", "blue", "circle", "falls", ",", ".")
SPEC = LatentSpec(channels=4, stride=(4, 8, 8), causal=True)
GRID = (5, 4, 2)


def space(**changes: Any) -> Any:
    return SimpleNamespace(spec=replace(SPEC, **changes), h_channels=4)


def conditioner(parts: Mapping[str, Mapping[str, Any]], where: Any = None, **known: Any) -> Conditioner:
    facts: dict[str, Any] = {"num_classes": CLASSES, "num_actions": ACTIONS, "vocabulary": WORDS} | known
    torch.manual_seed(0)
    built = Conditioner(parts, width=WIDTH, space=where or space(), **facts)
    with torch.no_grad():
        for weight in built.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return built.double()


def everything(dropout: float = 0.0) -> dict[str, dict[str, Any]]:
    """Every part there is, frames by cross-attention too."""
    parts = {name: config.load("generator/conditioning", name) | {"dropout": dropout} for name in registry.parts("conditioning")}
    parts["frames"] |= {"context": 0.5}
    return parts


def latent(batch: int = BATCH, **changes: Any) -> Latent:
    rng = torch.Generator().manual_seed(2)
    h = torch.randn(batch, 4, *GRID, generator=rng, dtype=torch.float64)
    return Latent(spec=SPEC, grids=(GRID,), num_frames=17, h=h, **changes)


def told(batch: int = BATCH) -> Condition:
    """Something for every part."""
    return Condition(
        label=torch.arange(batch) % CLASSES,
        text=["a red circle falls.", "a blue circle.", "red, blue", "a."][:batch],
        action=torch.arange(batch * 17).view(batch, 17) % ACTIONS,
        frames=latent(batch),
        frames_at=-7,
    )


def trunk_output(built: Conditioner, condition: Condition | None, batch: int = BATCH) -> Tensor:
    """What a network makes of what it is told: everything that it is told goes through here."""
    torch.manual_seed(1)
    trunk = Trunk(width=WIDTH, depth=2, heads=2, context=True).double()
    with torch.no_grad():
        for weight in trunk.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    grid = (GRID[0], 1, 2)
    x = torch.randn(1, 10, WIDTH, dtype=torch.float64).expand(batch, -1, -1)
    c, context = built.told(condition, batch, GRID[0])
    c = c.expand(-1, GRID[0], -1).repeat_interleave(2, dim=1)
    rope = rotary_table(grid_positions(grid), trunk.head_dim)
    return trunk(x, c, rope, context=context)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# Nulls


def test_dropped_is_the_same_as_never_told() -> None:
    built = conditioner(everything(dropout=1.0))
    silent = built.drop(told())
    assert silent is not None and silent.label is not None
    close(trunk_output(built, silent), trunk_output(built, None))
    close(trunk_output(built, built.without(told())), trunk_output(built, None))
    assert (trunk_output(built, told()) - trunk_output(built, None)).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("name", registry.parts("conditioning"))
def test_one_part_dropped_is_that_part_never_told(name: str) -> None:
    """And the others' word is untouched; the clips of a batch are dropped one by one."""
    built = conditioner(everything())
    part = built.parts[name]
    gone = torch.tensor([True, False, True, False])
    mixed = trunk_output(built, part.silence(told(), gone))
    without = trunk_output(built, built.without(told(), [name]))
    full = trunk_output(built, told())
    close(mixed[gone], without[gone])
    close(mixed[~gone], full[~gone])
    assert (without - full).abs().amax((1, 2)).min() > 1e-6


def test_dropouts_are_independent_of_one_another() -> None:
    """All sixteen combinations come as often as the product of their rates says, within four deviations."""
    rates = {"label": 0.1, "text": 0.3, "action": 0.5, "frames": 0.2}
    parts = everything()
    for name, rate in rates.items():
        parts[name]["dropout"] = rate
    built, n = conditioner(parts), 8000
    small = Latent(spec=SPEC, grids=((1, 1, 1),), num_frames=1, h=torch.zeros(n, 4, 1, 1, 1))
    full = Condition(label=torch.zeros(n).long(), text=torch.ones(n, 2).long(), action=torch.zeros(n, 1).long(), frames=small)
    torch.manual_seed(0)
    dropped = built.drop(full)
    assert dropped is not None
    label, text, action, mask = dropped.label, dropped.text, dropped.action, dropped.frames_mask
    assert label is not None and isinstance(text, Tensor) and action is not None and mask is not None
    gone = torch.stack([label < 0, (text == 0).all(1), (action < 0).all(1), ~mask.any(1)], dim=1)
    for combination in itertools.product([False, True], repeat=4):
        chance = 1.0
        for rate, out in zip((rates[name] for name in ("label", "text", "action", "frames")), combination, strict=True):
            chance *= rate if out else 1 - rate
        share = (gone == torch.tensor(combination)).all(1).double().mean().item()
        assert abs(share - chance) < 4 * (chance * (1 - chance) / n) ** 0.5, combination


def test_data_without_labels_needs_no_other_recipe() -> None:
    built = conditioner({"label": {}}, num_classes=0)
    assert built.names == ()
    vector, context = built.told(None, 2, 5)
    assert torch.equal(vector, torch.zeros(2, 1, WIDTH))
    assert context is None and not built.needs_context


@pytest.mark.parametrize(
    ("parts", "known", "sentence"),
    [
        ({"action": {}}, {"num_actions": 0}, "This data has no actions, so a generator cannot be told them: leave 'action' out."),
        ({"text": {}}, {"vocabulary": ()}, "This data has no captions, so a generator cannot be told them: leave 'text' out."),
        ({"labels": {}}, {}, "There is no conditioning called 'labels'. Did you mean 'label'?"),
        ({"label": {"drop": 1}}, {}, "'label' has no option 'drop'. Did you mean 'dropout'?"),
        ({"frames": {"context": 2.0}}, {}, "'frames.context' is between 0 and 1, and 2 is not."),
        ({"frames": {"tasks": {"predict": 1.0}}}, {}, "There is no task called 'predict'."),
        ({"frames": {"tasks": {"prediction": 0.0}}}, {}, "The weights of the tasks are []: give at least one above 0"),
    ],
)
def test_parts_that_cannot_be(parts: dict[str, Any], known: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        conditioner(parts, **known)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        (
            Condition(text=["a"]),
            "This model was not trained with 'text', so that says nothing to it: leave it out; it knows label",
        ),
        (Condition(frames=latent()), "This model was not trained with 'frames'"),
        (Condition(negative=Condition(text=["a"])), "This model was not trained with 'text'"),
        (Condition(label=torch.tensor([0, 3])), "Labels go from 0 to 2, and 3 is not one of them."),
        (Condition(action=torch.tensor([[0, 9]])), "Actions go from 0 to 4, and 9 is not one of them."),
    ],
)
def test_what_the_model_does_not_know_is_told(condition: Condition, sentence: str) -> None:
    built = conditioner({"label": {}, "action": {}, "frames": {}})
    with pytest.raises(UserError) as error:
        built.checked(condition)
    assert str(error.value).startswith(sentence)


def test_what_it_knows_is_welcome() -> None:
    conditioner(everything()).checked(told())


# Each part


def test_actions_are_a_linear_layer_over_one_hot_codes() -> None:
    """Cell by cell, each cell's actions one after another; the first cell is one frame, at the last place."""
    built = conditioner({"action": {}})
    action = torch.randint(-1, ACTIONS, (2, 17), generator=torch.Generator().manual_seed(0))
    table = built.parts["action"].table.weight.view(4, ACTIONS + 1, WIDTH)
    found = built.told(Condition(action=action), 2, 5)[0]
    cells = [[0], *([1 + 4 * i + j for j in range(4)] for i in range(4))]
    for clip, (cell, frames) in itertools.product(range(2), enumerate(cells)):
        places = [3] if len(frames) == 1 else range(4)
        expected = sum(table[place, action[clip, frame]] for place, frame in zip(places, frames, strict=True))
        close(found[clip, cell], expected)


@pytest.mark.parametrize(("start", "cells", "frames"), [(0, 1, 1), (0, 3, 9), (2, 2, 8)])
def test_an_action_is_told_to_its_own_cell(start: int, cells: int, frames: int) -> None:
    built = conditioner({"action": {}})
    base = torch.zeros(1, frames).long()
    before = built.told(Condition(action=base), 1, cells, start)[0]
    for frame in range(frames):
        changed = base.clone()
        changed[0, frame] = 2
        differs = (built.told(Condition(action=changed), 1, cells, start)[0] != before).any(-1)[0]
        cell = (frame + 3) // 4 if start == 0 else frame // 4
        assert differs.tolist() == [i == cell for i in range(cells)]


def test_frames_that_rounding_up_added_have_no_action() -> None:
    built = conditioner({"action": {}})
    action = torch.ones(1, 7).long()
    padded = torch.cat([action, torch.full((1, 2), -1)], dim=1)
    close(built.told(Condition(action=action), 1, 3)[0], built.told(Condition(action=padded), 1, 3)[0])
    for frames in (5, 10):
        with pytest.raises(UserError, match=f"There are actions for {frames} frames, and the window has 9"):
            built.told(Condition(action=torch.zeros(1, frames).long()), 1, 3)[0]


def test_words_and_marks() -> None:
    assert split_words("A red circle, isn't it?") == ["a", "red", "circle", ",", "isn", "'", "t", "it", "?"]
    assert join_words(["a", "red", "circle", ",", "blue", "."]) == "a red circle, blue."
    assert word_ids(["a red", "", "blue."], WORDS).tolist() == [[1, 2], [0, 0], [3, 7]]
    with pytest.raises(UserError, match=r"'bleu' in the text 'a bleu circle' is no word of the captions\. Did you mean 'blue'"):
        word_ids(["a bleu circle"], WORDS)


def test_a_caption_says_the_same_in_any_batch() -> None:
    """As ids or as text, beside longer ones or alone; and the order of its words matters."""
    built = conditioner({"text": {}})
    texts = ["a red circle, a blue circle falls.", "a red circle."]
    together = trunk_output(built, Condition(text=texts), 2)
    close(trunk_output(built, Condition(text=word_ids(texts, WORDS)), 2), together)
    close(trunk_output(built, Condition(text=texts[1:]), 1), together[1:])
    turned = trunk_output(built, Condition(text=["a blue circle, a red circle falls.", "a red circle."]), 2)
    assert (turned[0] - together[0]).abs().max() > 1e-4
    close(trunk_output(built, Condition(text=["", "a"]), 2)[:1], trunk_output(built, None, 1))


def test_given_frames_are_told_with_their_places() -> None:
    """A cell that is masked out says nothing, and when it was matters."""
    built = conditioner({"frames": {"context": 1.0}})
    given = latent()
    mask = torch.zeros(BATCH, GRID[0], dtype=torch.bool)
    mask[:, 1] = True
    first = trunk_output(built, Condition(frames=given, frames_mask=mask, frames_at=-7))
    other = latent()
    assert other.h is not None
    other.h[:, :, [0, 2, 3, 4]] += 1
    close(trunk_output(built, Condition(frames=other, frames_mask=mask, frames_at=-7)), first)
    close(trunk_output(built, Condition(frames=given.cells(1, 2), frames_at=-6)), first)
    assert (trunk_output(built, Condition(frames=given, frames_mask=mask, frames_at=-5)) - first).abs().max() > 1e-5


def test_frames_of_ids_are_told_by_what_the_ids_mean() -> None:
    table = torch.randn(7, 4, dtype=torch.float64)
    where = space(levels=(7,))
    where.embed = lambda ids, grids: table[ids[..., 0]].unflatten(1, grids[0]).movedim(-1, 1)
    built = conditioner({"frames": {"context": 1.0}}, where)
    ids = torch.randint(0, 7, (2, 6, 1))
    given = Latent(spec=where.spec, grids=((1, 3, 2),), num_frames=1, ids=ids)
    context = built.told(Condition(frames=given), 2, 1)[1]
    assert context is not None
    swapped = built.told(Condition(frames=replace(given, ids=ids.flip(0))), 2, 1)[1]
    assert swapped is not None
    close(swapped.tokens, context.tokens.flip(0))


# Given cells in training


@pytest.mark.parametrize("task", TASKS)
def test_cells_are_given_by_the_task(task: str) -> None:
    """One mask a cell in time, or one a cell where a task has regions; and the clip's own cells."""
    built = conditioner({"frames": {"tasks": {task: 1.0}}})
    clips = latent()
    torch.manual_seed(0)
    drawn = built.draw_known(clips, Condition(label=torch.zeros(BATCH).long()))
    assert drawn is not None and drawn.known is clips and drawn.frames is None and drawn.known_mask is not None
    mask = drawn.known_mask
    if TASKS[task].box is None:
        assert mask.shape == (BATCH, GRID[0])
        mask = mask[:, :, None, None].expand(-1, *GRID)
    assert mask.shape == (BATCH, *GRID)
    if not (TASKS[task].prefix or TASKS[task].scatter):
        assert all(torch.equal(one, task_mask(TASKS[task], GRID)) for one in mask)


def test_some_clips_have_their_cells_aside() -> None:
    built = conditioner({"frames": {"tasks": {"prediction": 1.0}, "context": 0.5, "dropout": 0.0}})
    torch.manual_seed(0)
    drawn = built.draw_known(latent(64), None)
    assert drawn is not None and drawn.known_mask is not None and drawn.frames_mask is not None
    in_place, aside = drawn.known_mask[:, 0], drawn.frames_mask[:, 0]
    assert torch.equal(in_place, ~aside) and 16 < int(aside.sum()) < 48
    assert not drawn.known_mask[:, 1:].any() and not drawn.frames_mask[:, 1:].any()


def test_what_is_given_already_is_left_alone() -> None:
    built = conditioner({"frames": {}})
    given = Condition(known=latent(), known_mask=torch.ones(BATCH, GRID[0], dtype=torch.bool))
    assert built.draw_known(latent(), given) is given
    assert conditioner({"label": {}}).draw_known(latent(), None) is None


def test_a_share_of_the_steps_is_of_cells_that_lie_apart() -> None:
    """With what is told of them, frame by frame, and where they are; a function of the step's randomness."""
    built = conditioner({"label": {}, "action": {}, "frames": {"spread": 0.5}})
    assert built.takes_places and not conditioner({"frames": {}}).takes_places
    clips = replace(latent(), start=3, num_frames=19)  # the last cell is not whole
    action = (torch.arange(19) % ACTIONS).expand(BATCH, -1)
    drawn = []
    for step in range(400):
        torch.manual_seed(step)
        some, told = built.draw_cells(clips, Condition(label=torch.arange(BATCH), action=action))
        assert told is not None and told.action is not None and some.h is not None
        if told.places is None:
            assert some is clips and told.action is action
            continue
        drawn.append(told.places)
        cells = [place - 3 for place in told.places]
        assert torch.equal(some.h, clips.h[:, :, cells]) and some.start == told.places[0]
        frames = [frame for cell in cells for frame in range(4 * cell, 4 * cell + 4) if frame < 19]
        assert torch.equal(told.action, action[:, frames])
        assert some.num_frames == told.action.shape[1]
        built.told(told, BATCH, len(cells), some.start)[0]  # as many actions as the window has frames
    assert 160 < len(drawn) < 240 and len(set(drawn)) > 15
    given = Condition(known=clips)
    assert conditioner({"frames": {"spread": 1.0}}).draw_cells(clips, given) == (clips, given)
    short = clips.cells(0, 2)
    assert conditioner({"frames": {"spread": 1.0}}).draw_cells(short, None) == (short, None)


def test_cells_that_lie_apart_know_their_time_beside_frames_given_apart() -> None:
    built = conditioner({"frames": {"context": 0.5, "spread": 0.5}})
    whole = built.told(None, 2, 6, 3)[0]
    close(built.told(Condition(places=(3, 5, 8)), 2, 3, 3)[0], whole[:, [0, 2, 5]])


def test_a_share_is_a_share() -> None:
    with pytest.raises(UserError, match=r"'frames\.spread' is between 0 and 1, and 1\.5 is not"):
        conditioner({"frames": {"spread": 1.5}})


def test_pyramids_are_given_whole_frames() -> None:
    where = space(levels=(2,) * 4, scales=((1.0, 0.5, 0.5), (1.0, 1.0, 1.0)))
    conditioner({"frames": {"tasks": {"interpolation": 1.0}}}, where)
    with pytest.raises(UserError, match="so the task 'inpaint_center' cannot be: set it to 0"):
        conditioner({"frames": {"tasks": {"interpolation": 1.0, "inpaint_center": 0.5}}}, where)


# Guidance over the parts


def counted(built: Conditioner, guidance: Any, progress: float = 0.5) -> tuple[Tensor, int]:
    condition, copies = guidance.at(progress)
    return guidance.join(trunk_output(built, condition, copies * BATCH), progress), copies


def test_a_scale_of_one_costs_one_forward_and_is_no_guidance() -> None:
    built = conditioner(everything())
    plain = trunk_output(built, told())
    for scale in (1.0, {}, {"text": 1.0, "label": 1.0}):
        out, copies = counted(built, built.guide(told(), BATCH, scale=scale))
        assert copies == 1
        assert torch.equal(out, plain)
    out, copies = counted(built, built.guide(None, BATCH, scale=5.0))
    assert copies == 1
    assert torch.equal(out, trunk_output(built, None))
    built.guidance = GuidanceOptions(interval=(0.6, 1.0))
    out, copies = counted(built, built.guide(told(), BATCH, scale=5.0))
    assert copies == 1
    assert torch.equal(out, plain)


def test_guidance_by_all_and_by_some() -> None:
    built = conditioner(everything())
    full, none = trunk_output(built, told()), trunk_output(built, None)
    out, copies = counted(built, built.guide(told(), BATCH, scale=3.0))
    assert copies == 2
    close(out, none + 3 * (full - none))
    rest = trunk_output(built, built.without(told(), ["text", "label"]))
    text = trunk_output(built, built.without(told(), ["label"]))
    out, copies = counted(built, built.guide(told(), BATCH, scale={"text": 2.0, "label": 5.0}))
    assert copies == 3
    close(out, rest + 2 * (text - rest) + 5 * (full - text))
    out, copies = counted(built, built.guide(told(), BATCH, scale={"text": 4.0, "label": 4.0}))
    assert copies == 2, "equal scales are one"
    close(out, rest + 4 * (full - rest))
    out, copies = counted(built, built.guide(told(), BATCH, scale={"text": 1.0, "label": 5.0}))
    assert copies == 2, "of what comes first and is not guided nothing leads away"
    close(out, text + 5 * (full - text))
    out, copies = counted(built, built.guide(told(), BATCH, scale={"text": 2.0, "label": 1.0}))
    assert copies == 3, "the text is guided by as if there were no label"
    close(out, full + (text - rest))
    only_label = Condition(label=told().label)
    out, copies = counted(built, built.guide(only_label, BATCH, scale={"text": 2.0, "label": 5.0}))
    assert copies == 2, "a condition that is not there costs nothing"
    close(out, none + 5 * (trunk_output(built, only_label) - none))


def test_a_negative_condition_is_led_away_from() -> None:
    """What it does not say is null, and what guides is all that differs."""
    built = conditioner(everything())
    away = Condition(text=["a blue circle falls."] * BATCH)
    out, copies = counted(built, built.guide(replace(told(), negative=away), BATCH, scale=3.0))
    negative, full = trunk_output(built, away), trunk_output(built, told())
    assert copies == 2
    close(out, negative + 3 * (full - negative))


def test_known_cells_are_no_word_that_is_guided_by() -> None:
    built = conditioner(everything())
    given = replace(told(), known=latent(), known_mask=torch.ones(BATCH, GRID[0], dtype=torch.bool))
    for branch in built.guide(given, BATCH, scale=3.0).branches:
        assert branch.known is None and branch.known_mask is None
    close(trunk_output(built, built.guide(given, BATCH, scale=3.0).branches[-1]), trunk_output(built, told()))


def test_an_unknown_name_in_a_scale_is_told() -> None:
    with pytest.raises(UserError, match=r"This model has no condition 'txt' to be guided by\. Did you mean 'text'"):
        conditioner(everything()).guide(told(), BATCH, scale={"txt": 2.0})


# A pretrained encoder


def t5(folder: Path) -> None:
    """A small T5 with random weights, that knows ``WORDS``."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    sizes = transformers.T5Config(d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=16)
    transformers.T5EncoderModel(sizes).save_pretrained(folder)


def clip(folder: Path, pictures: bool = False) -> None:
    """A small CLIP with random weights that reads letter by letter: its encoder of texts, or the one of pictures with it."""
    import transformers

    letters = [*ascii_lowercase, ",", "."]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24).save_pretrained(folder)
    sizes = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    known = {"vocab_size": len(pieces), "max_position_embeddings": 24, **marks}
    own = transformers.CLIPTextConfig(hidden_size=24, **sizes, **known)
    if pictures:
        other = transformers.CLIPVisionConfig(hidden_size=16, image_size=8, patch_size=4, **sizes)
        both = transformers.CLIPConfig(text_config=own.to_dict(), vision_config=other.to_dict(), projection_dim=8)
        transformers.CLIPModel(both).save_pretrained(folder)
    else:
        transformers.CLIPTextModel(own).save_pretrained(folder)


@pytest.fixture(params=[t5, clip, partial(clip, pictures=True)], ids=["t5", "clip", "clip of pictures too"])
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The folder of a pretrained encoder."""
    torch.manual_seed(0)
    request.param(tmp_path)
    return str(tmp_path)


def test_a_pretrained_encoder_is_read_from_its_folder_and_is_no_part_of_the_model(encoder: str) -> None:
    built = conditioner({"text": {"pretrained": encoder}}, vocabulary=())
    texts = ["a red circle", "a blue circle falls.", "", "red"]
    out = trunk_output(built, Condition(text=texts))
    close(trunk_output(built, Condition(text=texts[:1]), 1), out[:1], 1e-5)  # the encoder is in single precision
    close(out[2:3], trunk_output(built, None, 1))
    assert (out[0] - out[1]).abs().max() > 1e-4
    calls: list[int] = []
    text._pretrained(encoder)[1].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        trunk_output(built, Condition(text=["blue", "red", "a circle", "red"]))
    assert len(calls) == 1
    spelt = conditioner({"text": {"pretrained": encoder}})
    close(trunk_output(spelt, Condition(text=word_ids(texts, WORDS))), trunk_output(spelt, Condition(text=texts)))
    assert sum(weight.numel() for weight in built.parameters()) == sum(
        weight.numel() for weight in copy.deepcopy(built).parameters()
    )
    assert built.parts["text"].embedding.in_features == 24
    assert not [name for name in built.state_dict() if "encoder" in name or "shared" in name or "text_model" in name]


def test_a_pretrained_encoder_gives_what_it_gives_by_itself(encoder: str) -> None:
    """Each caption alone, without padding, through ``transformers``' own classes; one that is too long is cut."""
    import transformers

    name = ENCODERS[json.loads(Path(encoder, "config.json").read_text())["model_type"]]
    model = getattr(transformers, name).from_pretrained(encoder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(encoder)
    texts = ("a red circle falls", "a", "", *(("a blue circle. " * 5,) if name == "CLIPTextModel" else ()))
    features, there = text._pretrained_features(encoder, texts, torch.device("cpu"))
    assert not features.requires_grad
    for caption, own, seen in zip(texts, features, there, strict=True):
        ids = torch.tensor([reader(caption).input_ids[:24]])
        if len(reader(caption).input_ids) > 24:
            ids[0, -1] = reader.eos_token_id
        assert int(seen.sum()) == (ids.shape[1] if caption else 0)
        if caption:
            with torch.no_grad():
                close(own[seen], model(ids).last_hidden_state[0], 1e-5)


def test_a_missing_encoder_or_package_is_one_sentence(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen.conditioning.text.find_spec", lambda name: object())
    with pytest.raises(UserError, match="There is no pretrained text encoder in"):
        conditioner({"text": {"pretrained": str(tmp_path)}})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UserError, match="holds a model of the type bert, and not t5 or clip"):
        conditioner({"text": {"pretrained": str(tmp_path)}})
    monkeypatch.setattr("vidgen.conditioning.text.find_spec", lambda name: None)
    with pytest.raises(UserError, match='needs a package that is not installed: pip install "vidgen'):
        conditioner({"text": {"pretrained": str(tmp_path)}})


# Conditions as batches


def test_conditions_are_cut_and_joined_clip_by_clip() -> None:
    full = replace(
        told(), known=latent(), known_mask=torch.ones(BATCH, GRID[0], dtype=torch.bool), negative=Condition(text=["a"] * 4)
    )
    some = full[[2, 0]]
    assert some.text == ["red, blue", "a red circle falls."]
    assert some.label is not None and some.label.tolist() == [2, 0]
    assert some.known is not None and len(some.known) == 2 and some.frames_at == -7
    assert some.negative is not None and some.negative.text == ["a", "a"]
    assert full[1:3].text == full[torch.tensor([1, 2])].text == full[torch.tensor([False, True, True, False])].text
    both = Condition.cat([told(), Condition()], BATCH)
    built = conditioner(everything())
    out = trunk_output(built, both, 2 * BATCH)
    close(out[:BATCH], trunk_output(built, told()))
    close(out[BATCH:], trunk_output(built, None))
    turned = Condition.cat([Condition(), replace(told(), text=word_ids(["a", "red a", "", "."], WORDS))], BATCH)
    assert isinstance(turned.text, Tensor) and turned.text.shape == (2 * BATCH, 2) and not turned.text[:BATCH].any()
    assert both.batch == 2 * BATCH and Condition().batch is None
