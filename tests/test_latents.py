"""LatentSpec and Latent, held against their laws and against brute force."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import product

import pytest
import torch

from vidgen import Condition, Latent, LatentSpec, UserError
from vidgen.latents import joint_ids, split_ids

CAUSAL = LatentSpec(channels=3, stride=(4, 8, 8), causal=True, levels=(2,) * 5)
PLAIN = LatentSpec(channels=3, stride=(2, 4, 4), causal=False, levels=(7,))
PYRAMID = LatentSpec(channels=3, stride=(4, 4, 4), causal=True, levels=(5, 3), scales=((1, 0.25, 0.25), (1, 0.5, 0.5), (1, 1, 1)))
CONTINUOUS = LatentSpec(channels=16, stride=(4, 8, 8), causal=True)
RESIDUAL = LatentSpec(channels=8, stride=(1, 4, 4), causal=False, levels=(512,) * 4, stages=4)
GROWING = LatentSpec(channels=3, stride=(4, 4, 4), causal=True, levels=(9,), scales=((0.5, 0.5, 0.5), (1, 1, 1)), clip=2)
SPECS = [CAUSAL, PLAIN, PYRAMID, CONTINUOUS, RESIDUAL, GROWING]


@pytest.mark.parametrize("spec", SPECS)
def test_spec_survives_json(spec: LatentSpec) -> None:
    again = LatentSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize(
    ("spec", "kind", "vocabulary"),
    [
        (CAUSAL, "bits", 32),
        (PLAIN, "ids", 7),
        (CONTINUOUS, "continuous", None),
        (RESIDUAL, "ids", 512**4),
        (PYRAMID, "ids", 15),
        (LatentSpec(channels=1, stride=(1, 1, 1), causal=False, levels=(2,) * 64), "bits", 2**64),
    ],
)
def test_kind_and_vocabulary_follow_from_levels(spec: LatentSpec, kind: str, vocabulary: int | None) -> None:
    assert (spec.kind, spec.vocab_size) == (kind, vocabulary)


def test_causal_length_law() -> None:
    """1 + s*k frames make 1 + k cells, one frame one cell; other lengths round up; without cell 0, s frames make one cell."""
    for cells in range(1, 9):
        assert CAUSAL.frames(cells) == 1 + 4 * (cells - 1)
        assert CAUSAL.cells(1 + 4 * (cells - 1)) == cells
        assert CAUSAL.frames(cells, start=3) == 4 * cells
        assert CAUSAL.cells(4 * cells, start=3) == cells
    for frames in range(1, 40):
        for spec, start in product((CAUSAL, PLAIN), (0, 1)):
            fewest = next(cells for cells in range(1, 99) if spec.frames(cells, start) >= frames)
            assert spec.cells(frames, start) == fewest


def test_windows_tile_the_clip() -> None:
    """The cells of consecutive windows, the first with cell 0, are those of the whole."""
    assert CAUSAL.cells(17) == CAUSAL.cells(9) + CAUSAL.cells(8, start=3)


@pytest.mark.parametrize("frames", [0, -3])
def test_a_video_has_frames(frames: int) -> None:
    with pytest.raises(UserError, match=f"at least 1 frame, and this one has {frames}"):
        CAUSAL.cells(frames)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((17, 36, 32), "The height 36 is not a multiple of the tokenizer's stride 8; the nearest that fits is 32 or 40."),
        ((17, 32, 33), "The width 33 is not a multiple of the tokenizer's stride 8; the nearest that fits is 32 or 40."),
        ((17, 3, 32), "The height 3 is not a multiple of the tokenizer's stride 8; the nearest that fits is 8."),
        ((17, 32, 0), "The width 0 is not a multiple of the tokenizer's stride 8; the nearest that fits is 8."),
    ],
)
def test_a_size_that_does_not_fit_names_the_nearest(shape: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        CAUSAL.grid(shape)
    assert str(error.value) == sentence


def test_scales_round_half_up_and_stay_at_least_one() -> None:
    scales = tuple((1.0, part, part) for part in (0.125, 0.25, 0.375, 0.5, 0.625, 1.0))
    spec = LatentSpec(channels=1, stride=(1, 1, 1), causal=False, levels=(2,), scales=scales)
    for size in range(1, 20):
        expected = [max(1, math.floor(Fraction(part) * size + Fraction(1, 2))) for _, part, _ in scales]
        assert [grid[1] for grid in spec.grids((3, size, size))] == expected
        assert [grid[0] for grid in spec.grids((3, size, size))] == [3] * len(scales)


def test_a_pyramid_that_grows_in_time_has_one_for_cell_0_and_one_for_each_clip() -> None:
    # 17 frames of 8x8 are 5 cells of 2x2: cell 0, then two clips of 2 cells.
    clip = ((1, 1, 1), (2, 2, 2))
    assert GROWING.grids((17, 8, 8)) == ((1, 1, 1), (1, 2, 2), *clip, *clip)
    assert GROWING.grids((16, 8, 8), start=3) == (*clip, *clip)
    assert GROWING.grids((13, 8, 8))[-2:] == ((1, 1, 1), (1, 2, 2))  # the last clip has one cell left


@pytest.mark.parametrize("spec", SPECS)
def test_tokens_are_the_cells_of_all_grids(spec: LatentSpec) -> None:
    for shape in ((17, 32, 48), (1, 32, 32), (6, 64, 32)):
        assert spec.num_tokens(shape) == sum(t * h * w for t, h, w in spec.grids(shape))


def test_bits_per_pixel() -> None:
    assert CONTINUOUS.bits_per_pixel((17, 32, 32)) is None
    assert CAUSAL.bits_per_pixel((17, 32, 32)) == pytest.approx(5 * (5 * 4 * 4) / (17 * 32 * 32))
    assert RESIDUAL.bits_per_pixel((2, 8, 8)) == pytest.approx(4 * 9 * (2 * 2 * 2) / (2 * 8 * 8))
    assert PYRAMID.bits_per_pixel((1, 16, 16)) == pytest.approx(math.log2(15) * (1 + 4 + 16) / 256)


def latent_of(spec: LatentSpec, shape: tuple[int, int, int], start: int = 0, batch: int = 2) -> Latent:
    grids = spec.grids(shape, start)
    fields = {name: torch.randn(batch, spec.channels, *spec.grid(shape, start)) for name in ("z", "h", "logvar")}
    tokens = spec.num_tokens(shape, start)
    ids = torch.stack([torch.randint(level, (batch, tokens)) for level in spec.levels or ()], dim=-1) if spec.levels else None
    return Latent(spec=spec, grids=grids, num_frames=shape[0], start=start, ids=ids, **fields)


def same(a: Latent, b: Latent) -> bool:
    return (
        (a.spec, a.grids, a.num_frames, a.start) == (b.spec, b.grids, b.num_frames, b.start)
        and a.tensors().keys() == b.tensors().keys()
        and all(torch.equal(value, b.tensors()[name]) for name, value in a.tensors().items())
    )


@pytest.mark.parametrize("spec", [CAUSAL, PLAIN, PYRAMID, CONTINUOUS])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("frames", [17, 19, 20])
def test_cells_and_cat_are_inverse(spec: LatentSpec, start: int, frames: int) -> None:
    whole = latent_of(spec, (frames, 16, 24), start)
    total = whole.grids[-1][0]
    for cuts in ((1,), (2,), (1, 3), tuple(range(1, total))):
        bounds = [0, *cuts, total]
        parts = [whole.cells(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        assert [part.start for part in parts] == [start + a for a in bounds[:-1]]
        assert sum(part.num_frames for part in parts) == frames
        for part, (a, b) in zip(parts, zip(bounds, bounds[1:], strict=False), strict=True):
            # A part is itself a latent of its own length: same grids, same number of tokens.
            assert part.grids == spec.grids((part.num_frames, 16, 24), part.start)
            assert torch.equal(part.z, whole.z[:, :, a:b])
        assert same(Latent.cat(parts), whole)


def test_cells_of_a_pyramid_cuts_every_scale() -> None:
    """Against a pyramid whose ids tell where they lie."""
    grids = PYRAMID.grids((17, 16, 16))
    marks = torch.cat([torch.stack([torch.arange(math.prod(grid)) // (grid[1] * grid[2])], dim=-1) for grid in grids])
    latent = Latent(spec=PYRAMID, grids=grids, num_frames=17, ids=marks[None])
    cut = latent.cells(2, 4)
    for scale in cut.scale_ids():
        assert scale.shape[1] == 2
        assert torch.equal(scale[0, :, 0, 0, 0], torch.tensor([2, 3]))
        assert torch.equal(scale, scale[:, :, :1, :1].expand_as(scale))


@pytest.mark.parametrize("spec", [CAUSAL, PLAIN, PYRAMID, CONTINUOUS])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("cells", [(0, 2, 3), (1, 4), (2,), (0, 1, 2, 3, 4)])
def test_cells_that_lie_apart_are_as_if_they_followed_one_another(spec: LatentSpec, start: int, cells: tuple[int, ...]) -> None:
    whole = latent_of(spec, (20, 16, 24), start)
    window = whole.at(cells)
    parts = [whole.cells(cell, cell + 1) for cell in cells]
    assert (window.start, window.num_frames) == (start + cells[0], sum(part.num_frames for part in parts))
    assert window.grids == spec.grids((window.num_frames, 16, 24), window.start)
    assert torch.equal(window.z, whole.z[:, :, cells])
    if window.ids is not None:
        for found, *scales in zip(window.scale_ids(), *(part.scale_ids() for part in parts), strict=True):
            assert torch.equal(found, torch.cat(scales, dim=1))
    assert same(whole.at(range(whole.grids[-1][0])), whole)


def test_clips_that_lie_apart() -> None:
    whole = latent_of(GROWING, (20, 8, 8))
    window = whole.at((0, 3, 4, 5))
    assert window.grids == GROWING.grids((window.num_frames, 8, 8)) and window.num_frames == 1 + 2 * 4 + 3
    parts = [whole.cells(*part) for part in ((0, 1), (3, 5), (5, 6))]
    assert torch.equal(window.ids, torch.cat([part.ids for part in parts], dim=1))
    with pytest.raises(UserError, match=r"which begin at \[0, 1, 3, 5\]"):
        whole.at((0, 2, 3))


@pytest.mark.parametrize(("first", "last"), [(2, 2), (3, 1), (-1, 2), (0, 6)])
def test_cells_outside_are_refused(first: int, last: int) -> None:
    with pytest.raises(UserError, match=f"Cells {first} to {last} are not inside this latent's 5 cells"):
        latent_of(CAUSAL, (17, 16, 16)).cells(first, last)


def test_a_growing_pyramid_is_cut_between_clips() -> None:
    """20 frames are cell 0, two clips of 2 cells, and one of a single cell."""
    whole = latent_of(GROWING, (20, 8, 8))
    edges = [0, 1, 3, 5, 6]
    parts = [whole.cells(first, last) for first, last in zip(edges, edges[1:], strict=False)]
    for part in parts:
        assert part.grids == GROWING.grids((part.num_frames, 8, 8), part.start)
        assert part.ids.shape[1] == sum(math.prod(grid) for grid in part.grids)
        assert part.z.shape[2] == GROWING.cells(part.num_frames, part.start)
    again = Latent.cat(parts)
    assert torch.equal(again.ids, whole.ids) and torch.equal(again.z, whole.z) and again.grids == whole.grids
    with pytest.raises(UserError, match=r"which begin at \[0, 1, 3, 5\]"):
        whole.cells(0, 2)


def test_cat_refuses_gaps_and_partly_filled_cells() -> None:
    whole = latent_of(CAUSAL, (19, 16, 16))
    with pytest.raises(UserError, match="starts at cell 3 cannot follow one that ends before cell 2"):
        Latent.cat([whole.cells(0, 2), whole.cells(3, 5)])
    with pytest.raises(UserError, match="partly filled"):
        Latent.cat([whole, latent_of(CAUSAL, (4, 16, 16), start=6)])


def test_batch_indexing_and_moving() -> None:
    latent = latent_of(CAUSAL, (17, 16, 16), batch=4)
    some = latent[[2, 0]]
    assert len(some) == 2
    assert torch.equal(some.ids, latent.ids[[2, 0]])
    half = latent.to(dtype=torch.bfloat16)
    assert half.z.dtype == torch.bfloat16
    assert half.ids.dtype == latent.ids.dtype


@pytest.mark.parametrize("levels", [(2, 2, 2), (5,), (3, 4, 2), (8, 6, 5)])
def test_joint_ids_put_the_first_sub_id_first(levels: tuple[int, ...]) -> None:
    """Counting through the sub-ids in the order of a dictionary counts through the joint ids."""
    every = torch.tensor(list(product(*(range(level) for level in levels))))
    joint = joint_ids(every, levels)
    assert joint.dtype == torch.int64
    assert torch.equal(joint, torch.arange(math.prod(levels)))
    assert torch.equal(split_ids(joint, levels), every)


def test_joint_ids_of_large_vocabularies_do_not_overflow() -> None:
    levels = (2,) * 62
    ids = torch.ones(1, 3, 62, dtype=torch.int32)
    assert joint_ids(ids, levels).tolist() == [[2**62 - 1] * 3]
    assert torch.equal(split_ids(joint_ids(ids, levels), levels), ids.long())


def test_a_window_of_a_condition_has_the_actions_of_its_frames() -> None:
    actions = torch.arange(14).view(2, 7)
    condition = Condition(label=torch.tensor([3, 4]), action=actions, negative=Condition(action=-actions))
    part = condition.window(slice(2, 5))
    assert torch.equal(part.action, actions[:, 2:5]) and torch.equal(part.negative.action, -actions[:, 2:5])
    assert torch.equal(part.label, condition.label)
    assert torch.equal(condition.window([0, 6]).action, actions[:, [0, 6]])


def test_places_belong_to_the_window_and_not_to_a_clip() -> None:
    condition = Condition(label=torch.tensor([3, 4]), places=(0, 4, 7))
    assert condition[[1]].places == condition.to("cpu").places == (0, 4, 7)
    assert Condition.cat([condition, Condition()], 2).places == (0, 4, 7)
