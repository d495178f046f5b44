import math
from collections import Counter

import pytest
import torch

from vidgen.metrics.codebook_usage import LARGEST_JOINT, CodebookUsage


def draw(levels: tuple[int, ...], *shape: int, seed: int = 0) -> torch.Tensor:
    """Ids (*shape, L), the small values of each sub-id more frequent than the large."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([(torch.rand(shape, generator=generator) ** 2 * k).long() for k in levels], dim=-1)


@pytest.mark.parametrize("levels", [(64,), (2,) * 6, (8, 5, 3), (4, 4), (1,)])
def test_figures_equal_counting_by_hand(levels):
    ids = draw(levels, 3, 11)
    metric = CodebookUsage(levels=levels)
    metric.update(ids)
    result = metric.compute()

    counts = Counter(map(tuple, ids.flatten(0, 1).tolist()))
    vocab, total = math.prod(levels), 33
    entropy = -sum(c / total * math.log2(c / total) for c in counts.values())
    assert result["usage"] == pytest.approx(len(counts) / vocab)
    assert result["dead_codes"] == vocab - len(counts)
    assert result["tokens"] == total
    assert result["entropy_bits"] == pytest.approx(entropy)
    assert result["perplexity"] == pytest.approx(2**entropy)
    assert metric.histogram() == {"counts_sorted": sorted(counts.values(), reverse=True), "vocab_size": vocab}


def test_first_sub_id_is_the_most_significant():
    metric = CodebookUsage(levels=(2, 3, 5))
    metric.update(torch.tensor([[[1, 2, 4], [1, 0, 0], [0, 1, 0], [0, 0, 1]]]))
    assert metric.counts.nonzero().flatten().tolist() == [1, 5, 15, 29]


def test_a_uniform_code_has_the_whole_codebook_for_perplexity():
    levels = (2,) * 5
    metric = CodebookUsage(levels=levels)
    metric.update(torch.cartesian_prod(*[torch.arange(2)] * 5)[None])
    assert metric.compute() == {"usage": 1, "perplexity": 32, "entropy_bits": 5, "dead_codes": 0, "tokens": 32}


def test_a_collapsed_code_has_perplexity_one():
    metric = CodebookUsage(levels=(16,))
    metric.update(torch.full((2, 50, 1), 3))
    assert metric.compute() == {"usage": 1 / 16, "perplexity": 1, "entropy_bits": 0, "dead_codes": 15, "tokens": 100}


@pytest.mark.parametrize("levels", [(8, 5, 3), (2,) * 20])
def test_batches_and_ranks_do_not_matter(levels):
    ids = draw(levels, 9, 7)
    whole, split, other = (CodebookUsage(levels=levels) for _ in range(3))
    whole.update(ids)
    split.update(ids[:2])
    split.update(ids[2:5])
    other.update(ids[5:])
    split.merge_state(other)
    assert split.compute() == whole.compute()
    assert split.histogram() == whole.histogram()


def test_the_largest_joint_codebook_is_counted_densely_and_larger_ones_by_sub_id():
    assert CodebookUsage(levels=(2,) * 18).joint
    assert CodebookUsage(levels=(2,) * 18).vocab_size == LARGEST_JOINT
    levels = (2**18, 4, 2)
    ids = draw(levels, 5, 20)
    metric = CodebookUsage(levels=levels)
    assert not metric.joint
    metric.update(ids)
    result = metric.compute()

    alone = []
    for i, level in enumerate(levels):
        one = CodebookUsage(levels=(level,))
        one.update(ids[..., i : i + 1])
        alone.append(one.compute())
    assert result["tokens"] == 100
    assert result["usage"] == pytest.approx(sum(a["usage"] for a in alone) / 3)
    assert result["dead_codes"] == sum(a["dead_codes"] for a in alone)
    assert result["entropy_bits"] == pytest.approx(sum(a["entropy_bits"] for a in alone))
    assert result["perplexity"] == pytest.approx(math.prod(a["perplexity"] for a in alone) ** (1 / 3))
    assert "sub-ids of 3 codebooks" in metric.protocol


def test_without_tokens_nothing_is_claimed():
    with pytest.warns(UserWarning, match="before the ``update``"):
        result = CodebookUsage(levels=(4,)).compute()
    assert result["tokens"] == 0
    assert result["usage"] == 0
    assert math.isnan(result["perplexity"])


def test_wrong_ids_are_refused():
    metric = CodebookUsage(levels=(4, 2))
    with pytest.raises(ValueError, match=r"\(B, N, 2\)"):
        metric.update(torch.zeros(1, 5, 3, dtype=torch.long))
    for wrong in ([0, 2], [4, 0], [-1, 0]):
        with pytest.raises(ValueError, match="below their levels"):
            metric.update(torch.tensor([[wrong]]))
    assert metric.compute()["tokens"] == 0
    with pytest.raises(ValueError, match="levels"):
        CodebookUsage(levels=())
