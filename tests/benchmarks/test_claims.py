"""Claims: what rows make of them, whichever way they come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import claims
import pytest
from figures import result
from made_suites import grid, records, results, sizes

Put = Callable[[str, Sequence[Any]], None]


@pytest.fixture(autouse=True)
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Writes the records of a suite; without it there are no results at all."""
    from records import append

    monkeypatch.setattr(claims.suite, "RESULTS", tmp_path / "suites")
    monkeypatch.setattr(claims.sampling, "RESULTS", tmp_path / "sampling.jsonl")
    monkeypatch.setattr(claims.rates, "RESULTS", tmp_path / "tokenizers.jsonl")
    return lambda name, made: append(tmp_path / (name if name.endswith("l") else f"suites/{name}.jsonl"), made)


def timed(tmp_path: Path, *ratios: tuple[str, float, float, float], pairs: int = 5) -> None:
    keys = {"against": "ar", "ours": 1.0, "theirs": 1.0, "unit": "clips/s", "wanted": "", "met": None, "settings": ""}
    keys |= {
        "pairs": pairs,
        "load": 1.0,
        "code": "c",
        "hardware": {"cpu": "A processor", "cores": 2},
        "versions": {},
        "commit": None,
        "schema": 1,
    }
    lines = [
        json.dumps({**keys, "subject": subject, "measure": f"row {place}", "ratio": ratio, "quartiles": [low, high]})
        for place, (subject, ratio, low, high) in enumerate(ratios)
    ]
    (tmp_path / "sampling.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_without_rows_every_claim_names_its_command() -> None:
    for claim in claims.CLAIMS:
        outcome = claim.check()
        assert outcome.verdict == claims.NOT_RUN and "`python benchmarks/" in outcome.missing
    assert claims.page().count("| not run yet |") == len(claims.CLAIMS)
    assert claims.faster("maskgit", "ar").missing == "`python benchmarks/sampling.py --only maskgit`"
    assert claims.faster("var", "ar").missing == "`python benchmarks/sampling.py --only var`"


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([(2.0, 1.5, 2.5), (1.2, 1.1, 1.3)], "yes"),
        ([(0.5, 0.4, 0.6)], "no"),
        ([(2.0, 1.5, 2.5), (1.1, 0.9, 1.3)], "undecided"),
        ([(2.0, 1.5, 2.5), (0.5, 0.4, 0.6)], "undecided"),
    ],
)
def test_speed_is_decided_by_quartiles(tmp_path: Path, ratios: list[tuple[float, float, float]], verdict: str) -> None:
    others = [("ar against ar without a cache", 9.0, 8.0, 10.0), ("var against dit, 250 steps", 9.0, 8.0, 10.0)]
    timed(tmp_path, *[("maskgit, 8 steps against ar", *ratio) for ratio in ratios], *others)
    outcome = claims.faster("maskgit", "ar")
    assert (outcome.verdict, len(outcome.votes)) == (verdict, len(ratios))
    assert "maskgit in 8 steps, on 2 cores of A processor" in outcome.votes[0].found
    assert claims.faster("var", "dit").verdict == "yes"


def test_readings_of_a_suite_decide_nothing_of_speed(put: Put) -> None:
    """Each is one reading, under whatever load the machine had then."""
    put("cpu", list(grid()))  # made up with 0.15 and 0.9 s a sample
    assert claims.faster("maskgit", "ar").verdict == claims.NOT_RUN


@pytest.mark.parametrize(("pairs", "words"), [(1, "yes, so far"), (2, "yes, so far"), (3, "yes")])
def test_a_verdict_on_few_pairs_is_one_so_far(tmp_path: Path, pairs: int, words: str) -> None:
    timed(tmp_path, ("maskgit, 8 steps against ar", 2.0, 1.5, 2.5), pairs=pairs)
    assert claims.faster("maskgit", "ar").words == words
    assert f"| MaskGIT in 8 steps samples faster than an autoregressive model | {words} |" in claims.page()


def test_what_a_trunk_is_given_is_told_where_dit_is_timed() -> None:
    """The rule's words are those of the recipe that is timed."""
    assert claims.sampling.RECIPES["dit"][2]["patch"] == [1, 2, 2]
    assert "DiT has patches of 1x2x2" in claims.OF_PATCHES and "a quarter of the tokens" in claims.OF_PATCHES


@pytest.mark.parametrize(("exponent", "noise", "verdict"), [(-0.1, 0.001, "yes"), (0.1, 0.001, "no"), (0.0, 0.05, "undecided")])
def test_laws_are_decided_by_the_interval_of_their_exponent(put: Put, exponent: float, noise: float, verdict: str) -> None:
    put("scaling", [*sizes("var", exponent, noise=noise), *sizes("dit", exponent, noise=noise)])
    for check in (claims.var_power_law, claims.dit_follows_compute):
        outcome = check()
        assert outcome.verdict == verdict and len(outcome.votes) == 1, check
    assert "15 points" in claims.var_power_law().votes[0].found


def test_a_fall_that_is_not_straight_is_no_power_law(put: Put) -> None:
    put("scaling", list(sizes("var", -0.05, noise=0.05, seeds=6)))
    (vote,) = claims.var_power_law().votes
    law = vote.found.partition("exponent ")[2]
    assert "to −" in law and float(law.partition("r = −")[2][:5]) < 0.95  # below 0 for certain, and far from a line
    assert claims.var_power_law().verdict == "no"


def codes(tokenizer: str, exponent: float, noise: Sequence[float] = (0.01, -0.01, 0.0)) -> list[Any]:
    return [
        record
        for bits in (6, 8, 10, 12)
        for seed, off in enumerate(noise)
        for record in records(
            results(
                tokenizer__bits_per_pixel=bits / 55, samples__motion_fd=9 * bits**exponent + off, reconstruction__psnr=20 + bits
            ),
            tokenizer=tokenizer,
            generator="maskgit",
            words=[f"tokenizer.quantizer.bits={bits}"],
            seed=seed,
        )
    ]


@pytest.mark.parametrize(
    ("lfq", "vq", "verdict"), [(-0.3, 0.3, "yes"), (0.3, -0.3, "no"), (-0.3, -0.3, "undecided"), (-0.3, 0.0, "undecided")]
)
def test_codebooks_are_claimed_of_both_quantizers(put: Put, lfq: float, vq: float, verdict: str) -> None:
    put("codebook-size", [*codes("lfq", lfq), *codes("vq", vq)])
    outcome = claims.codebooks()
    assert outcome.verdict == verdict
    assert "PSNR from few bits to many: 26.0, 28.0, 30.0, 32.0 dB" in outcome.votes[0].found


def test_one_quantizer_alone_says_nothing_of_codebooks(put: Put) -> None:
    put("codebook-size", codes("lfq", -0.3))
    assert claims.codebooks().verdict == "not run yet"


def strided(
    psnr: float,
    stride: str = "",
    *,
    data: str = "worlds",
    half: float = 0.1,
    seed: int = 0,
    rate: float = 0.2,
    words: Sequence[str] = (),
) -> list[Any]:
    rows = [
        result("reconstruction/psnr", psnr, interval=(psnr - half, psnr + half), n=5 if data == "folder" else 64),
        result("tokenizer/bits_per_pixel", rate),
    ]
    words = [*words, *([f"'tokenizer.backbone.patch=[{stride}]'"] if stride else [])]
    return records(rows, generator=None, words=words, data=data, seed=seed)


def test_compression_is_weighed_by_the_interval_of_the_fall(put: Put) -> None:
    put("tokenizers.jsonl", [*strided(30.0), *strided(29.5, "4,8,8", rate=0.05), *strided(25.0, "4,16,16")])
    (vote,) = claims.compression().votes
    assert (
        vote.sign == 1
        and "`lfq` on worlds: 0.50 dB less (0.36 to 0.64), at 4 times less rate, 1 seed, n is 64 clips" in vote.found
    )
    put("tokenizers.jsonl", [*strided(30.0, data="folder"), *strided(27.0, "4,8,8", data="folder")])
    assert [vote.sign for vote in claims.compression().votes] == [1, -1] and claims.compression().verdict == "undecided"
    assert claims.compression().votes[1].found.endswith("1 seed, n is 5 clips")
    put("tokenizers.jsonl", [*strided(30.0, data="asl", half=2), *strided(28.5, "4,8,8", data="asl", half=2)])
    assert [vote.sign for vote in claims.compression().votes] == [1, -1, 0]


def test_compression_compares_seeds_with_themselves_and_with_the_stride_of_the_source(put: Put) -> None:
    made = []
    for seed, (fine, coarse) in enumerate(((30.0, 29.4), (34.0, 33.5), (26.0, 25.6))):
        made += [*strided(fine, seed=seed), *strided(40.0, "1,4,4", seed=seed), *strided(coarse, "4,8,8", seed=seed)]
    put("compression", made)
    outcome = claims.compression()
    assert outcome.words == "yes, so far"  # three seeds, and a part of what the suite asks for
    assert "`lfq` on worlds: 0.50 dB less (0.25 to 0.75)" in outcome.votes[0].found  # 4.303 * 0.1 / sqrt(3)


def test_tokenizers_of_other_steps_are_not_held_against_each_other(put: Put) -> None:
    steps = ["tokenizer.training.steps=600"]
    put("rates", [*strided(30.0), *strided(29.5, "4,8,8", words=steps)])
    assert not claims.compression().votes
    put("rates", [*strided(30.0, words=steps), *strided(29.5, "4,8,8", words=steps)])
    assert len(claims.compression().votes) == 1


def test_a_tokenizer_of_two_suites_is_weighed_once(put: Put) -> None:
    made = [*strided(30.0), *strided(29.5, "4,8,8")]
    put("rates", made)
    (alone,) = claims.compression().votes
    put("compression", made)
    assert list(claims.compression().votes) == [alone]


def test_generation_is_held_against_reconstruction_within_each_generator(put: Put) -> None:
    put("cpu", list(grid()))
    outcome = claims.reconstruction_and_generation()
    assert outcome.verdict == "yes" and len(outcome.votes) == 4
    assert (
        "dit, motion-FD of samples by that of reconstructions" in outcome.votes[0].found and "6 points" in outcome.votes[0].found
    )


def test_the_page_has_a_section_a_claim_and_says_why_it_is_undecided(tmp_path: Path) -> None:
    timed(tmp_path, ("maskgit, 8 steps against ar", 1.5, 0.9, 2.0), pairs=2)
    page = claims.page()
    for claim in claims.CLAIMS:
        assert f"\n## {claim.says}\n" in page and claim.source in page and claim.rule in page
    assert "**undecided, so far**: 1 neither" in page
    assert page == claims.page()
