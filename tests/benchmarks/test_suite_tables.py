"""Tables of suites: every recipe has its row, the best and what differs are marked, and protocols never mix."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import suite_tables
from records import Record, from_line, to_lines
from suite import Suite
from suite_records import COMMON, all_records, baseline, record, suite, value

from vidgen import UserError

LFQ_DIT = (*COMMON, "tokenizer=lfq", "generator=dit")
FD = "samples/motion_fd"


def cells(of: Suite, records: Sequence[Record]) -> list[dict[str, str]]:
    """The rows of the Markdown table by the names of their columns, without units, arrows and protocols."""
    text = suite_tables.markdown(suite_tables.of(of, records)).replace("\N{NO-BREAK SPACE}", " ")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    head = [re.split(r",| ↑| ↓|<br>", name.strip())[0].strip() for name in lines[0]]
    return [dict(zip(head, (cell.strip() for cell in line), strict=True)) for line in lines[2:]]


def by_name(of: Suite, records: Sequence[Record]) -> dict[str, dict[str, str]]:
    return {re.sub("<sup>.*?</sup>", "", f"{row['Tokenizer']} {row['Generator']}"): row for row in cells(of, records)}


def letters(of: Suite, records: Sequence[Record]) -> dict[str, str]:
    return dict(suite_tables.of(of, records).letters)


# Figures ----------------------------------------------------------------------------------------------------------------


def test_a_row_is_the_mean_of_its_seeds_with_its_standard_error() -> None:
    of = suite()
    values = {0: 5.02, 1: 6.02, 2: 8.52}
    rows = by_name(of, all_records(of, lambda words, seed: values[seed] * (2 if words == LFQ_DIT else 1)))
    error = statistics.stdev(values.values()) / math.sqrt(3)
    assert rows["lfq dit"]["motion-FD"] == f"13.0 ± {2 * error:.1f}"
    assert rows["kl ar"]["motion-FD"] == f"**6.52 ± {error:.2f}**"
    assert {row["Seeds"] for row in rows.values()} == {"3"}
    assert "± is the standard error" in suite_tables.markdown(suite_tables.of(of, all_records(of)))


def test_fractions_are_per_cent_and_equal_seeds_have_no_error() -> None:
    of = suite()
    rows = by_name(of, all_records(of, lambda words, seed: 0.25, names=("samples/law_legal",)))
    assert {row["Law-legal"] for row in rows.values()} == {"25.0"}


def test_the_best_is_marked_by_the_direction_of_its_column() -> None:
    of = suite()

    def figure(words: tuple[str, ...], seed: int) -> float:
        return 0.9 + seed / 100 if words == LFQ_DIT else 0.5 + seed / 100

    rows = by_name(of, all_records(of, figure, names=("samples/law_legal", FD, "samples/memorised", "samples/seconds")))
    assert [row["Law-legal"].startswith("**") for row in rows.values()] == [False, False, True, False]
    assert [row["motion-FD"].startswith("**") for row in rows.values()] == [True, True, False, True]  # a tie
    assert not any(row["Memorised"].startswith("**") for row in rows.values())
    assert not any(row["Sampling time"].startswith("**") for row in rows.values())  # one reading each, under whatever load


def test_reconstructions_are_held_against_those_of_the_same_rate() -> None:
    of = suite(tokenizers=("kl", "lfq", "vq", "bsq"), generators=("dit",))
    psnr = {"kl": 40.0, "lfq": 30.0, "vq": 31.0, "bsq": 35.0}
    rate = {"lfq": 0.184, "vq": 0.186, "bsq": 0.3}
    found = []
    for cell in of.cells:
        name = value(cell.words, "tokenizer")
        found.append(record(cell.words, cell.seed, "reconstruction/psnr", psnr[name]))
        if name in rate:
            found.append(record(cell.words, cell.seed, "tokenizer/bits_per_pixel", rate[name]))
    rows = by_name(of, found)
    assert [rows[f"{name} dit"]["PSNR"] for name in psnr] == ["40.00", "30.00", "**31.00**", "35.00"]


def test_distances_to_reconstructions_are_held_against_those_of_the_same_tokenizer() -> None:
    of = suite()
    distance = {("kl", "dit"): 1.5, ("kl", "ar"): 2.5, ("lfq", "dit"): 9.5, ("lfq", "ar"): 8.5}

    def figure(words: tuple[str, ...], seed: int) -> float:
        return distance[value(words, "tokenizer"), value(words, "generator")]

    rows = cells(of, all_records(of, figure, names=("samples/motion_fd_reconstructions",)))
    assert [row["motion-FD to reconstructions"] for row in rows] == ["**1.50**", "2.50", "9.50", "**8.50**"]


def test_from_five_seeds_on_the_legend_states_the_test() -> None:
    five, three = suite(seeds=(0, 1, 2, 3, 4)), suite()

    def figure(words: tuple[str, ...], seed: int) -> float:
        if words == LFQ_DIT:
            return 5.0 + seed
        if "tokenizer=kl" in words and "generator=dit" in words:
            return 5.0 + seed + (0.5 if seed else -0.1)
        return 9.0 + seed

    rows = by_name(five, all_records(five, figure))
    assert [re.match(r"\**", row["motion-FD"])[0] for row in rows.values()] == ["*", "", "**", ""]
    assert "exact one-sided sign-flip test" in suite_tables.markdown(suite_tables.of(five, all_records(five, figure)))
    assert "sign-flip" not in suite_tables.markdown(suite_tables.of(three, all_records(three, figure)))


# Rows -------------------------------------------------------------------------------------------------------------------


def test_every_recipe_of_the_grid_has_a_row_whether_it_was_run_or_not() -> None:
    of = suite()
    found = [
        one for one in all_records(of) if one.origin.tokenizer == "lfq" and (one.origin.generator, one.origin.seed) != ("ar", 2)
    ]
    rows = by_name(of, found)
    assert list(rows) == ["kl dit", "kl ar", "lfq dit", "lfq ar"]
    assert [row["Seeds"] for row in rows.values()] == ["not run yet", "not run yet", "3", "2 of 3"]
    assert rows["kl dit"]["motion-FD"] == ""


def test_settings_are_what_the_grid_varies_beside_the_parts() -> None:
    of = suite(("tokenizer=lfq", "generator=dit", "generator.guidance_scale=1.0"))
    rows = cells(of, all_records(of, lambda words, seed: float(len(words))))
    assert [row["Settings"] for row in rows] == ["", "", "", "", "`generator.guidance_scale=1.0`"]
    assert [row["motion-FD"].strip("*") for row in rows] == ["4", "4", "4", "4", "5"]  # each record went to its own row


def test_runs_that_are_measured_again_have_a_row_for_each_way_and_no_column_of_fvd() -> None:
    of = suite(generators=("dit",), again=(("evaluation.guidance_scale=1.0",), ("evaluation.guidance_scale=2.0",)))
    rows = cells(of, all_records(of, lambda words, seed: 2.5 if words[-1].endswith("=2.0") else 7.5))
    assert [row["Settings"] for row in rows] == [f"`evaluation.guidance_scale={scale}`" for scale in ("1.0", "2.0")] * 2
    assert [row["motion-FD"] for row in rows] == ["7.50", "**2.50**"] * 2
    assert "FVD" not in rows[0]


def test_a_tokenizer_s_suite_has_no_generator_and_no_fvd() -> None:
    of = suite(("tokenizer=lfq", "stage=tokenizer"), generators=(), seeds=(0,))
    (row,) = cells(of, all_records(of, names=("reconstruction/psnr",)))
    assert (row["Generator"], row["PSNR"]) == ("–", "5.00")
    assert "FVD" not in row
    assert "fvd" not in suite_tables.markdown(suite_tables.of(of, all_records(of, names=("reconstruction/psnr",))))


def test_baselines_stand_at_the_bottom_and_are_never_the_best() -> None:
    of = suite()
    found = [baseline("H.264, crf 30", "reconstruction/motion_fd", 1.0), baseline("training clips", FD, 0.5), *all_records(of)]
    rows = cells(of, found)
    assert [row["Tokenizer"] for row in rows[-2:]] == ["H.264, crf 30", "training clips"]
    assert (rows[-1]["Seeds"], rows[-1]["motion-FD"]) == ("–", "0.500")
    assert suite_tables.latex(suite_tables.of(of, found)).count(r"\midrule") == 2


def test_what_was_measured_twice_counts_once_and_curves_do_not() -> None:
    of = suite(seeds=(0,))
    curve = record(LFQ_DIT, 0, FD, 99.0, stage="generator", split="val")
    rows = by_name(of, [record(LFQ_DIT, 0, FD, 99.0), record(LFQ_DIT, 0, FD, 3.5), curve])
    assert rows["lfq dit"]["motion-FD"] == "3.50"


def test_a_run_of_no_cell_is_refused() -> None:
    other = record((*COMMON, "tokenizer=vq", "generator=dit"), 0, FD, 3.5)
    with pytest.raises(UserError, match=r"tiny\.jsonl holds figures of 'vidgen fit .*tokenizer=vq.*no run of the suite tiny"):
        suite_tables.of(suite(), [other])


def test_folders_of_the_suite_are_known_by_their_last_names() -> None:
    words = ("data=folder", "data.path=/mine/clips", "tokenizer=lfq", "generator=dit")
    of = replace(suite(), cells=(replace(suite().cells[0], words=words, own=()),))
    found = record(tuple(word.replace("/mine/", "") for word in words), 0, FD, 3.5)
    assert by_name(of, [found])["lfq dit"]["Seeds"] == "1"


# What differs -----------------------------------------------------------------------------------------------------------


def test_where_all_is_equal_nothing_is_marked() -> None:
    of = suite()
    found = all_records(
        of, names=(FD, "reconstruction/psnr", "samples/law_legal", "samples/law_residual", "generator/parameters")
    )
    assert letters(of, found) == {}
    assert "<sup>" not in suite_tables.markdown(suite_tables.of(of, found))


@pytest.mark.parametrize(
    ("origin_of", "of_row", "column", "said"),
    [
        ({"precision": "fp32"}, {}, "Seeds", "precision fp32 (most: bf16)"),
        ({"versions": {"torch": "2.9.0"}}, {}, "Seeds", "torch 2.9.0 (most: 2.15.0)"),
        (
            {"hardware": {"cpu": "Another", "cores": 8}},
            {},
            "Seeds",
            "run on Another (8 cores) (most: A processor (2 cores))",
        ),
        (
            {"hardware": {"gpu": "A GPU", "cpu": "A processor", "cores": 2}},
            {},
            "Seeds",
            "run on A GPU with A processor (2 cores) (most: A processor (2 cores))",
        ),
        ({"commit": "0123456789ab-dirty"}, {}, "Seeds", "of a checkout with changes that no commit has"),
        ({"data": "folder"}, {}, "Seeds", "data folder (most: worlds)"),
        ({"config": "another"}, {}, "Seeds", "the seeds are of several recipes: a default has changed between them"),
        ({}, {"step": 900}, "Generator", "900 steps (most: 1,200)"),
        ({}, {"n": 64}, "motion-FD", "of 64 clips (most: 128)"),
        ({}, {"protocol": "run@0123abcd, 64 real clips"}, "motion-FD", "by the rule: run@0123abcd, 64 real clips (most: "),
        ({}, {"value": math.nan}, "motion-FD", "the mean of the seeds that have a value"),
    ],
)
def test_what_differs_from_the_others_is_marked_and_said(origin_of: dict, of_row: dict, column: str, said: str) -> None:
    of = suite()
    found = all_records(of)
    place = next(i for i, one in enumerate(found) if one.origin.seed == 1 and one.origin.command.find("lfq generator=dit") > 0)
    changed = Record(origin=replace(found[place].origin, **origin_of), row=replace(found[place].row, **of_row))
    found[place] = changed
    rows = by_name(of, found)
    marked = [(name, key) for name, row in rows.items() for key, text in row.items() if "<sup>a</sup>" in text]
    assert marked == [("lfq dit", column)]
    (found_said,) = letters(of, found).values()
    assert found_said.startswith(said)


def test_parameters_beyond_five_per_cent_of_the_median_are_marked() -> None:
    of = suite(tokenizers=("kl", "vq", "lfq"), generators=("dit",))
    count = {"kl": 1_000_000.0, "vq": 1_040_000.0, "lfq": 1_100_000.0}
    found = [record(cell.words, cell.seed, "generator/parameters", count[value(cell.words, "tokenizer")]) for cell in of.cells]
    rows = by_name(of, found)
    assert [row["Generator parameters"] for row in rows.values()] == ["1 M", "1.04 M", "1.1 M<sup>a</sup>"]
    assert letters(of, found) == {"a": "over 5 % off the median, 1.04 M"}


def test_trunks_that_are_given_other_numbers_of_tokens_are_marked() -> None:
    """At equal operations a trunk of fewer tokens is trained on more clips: the columns and a letter say so."""
    of = suite(tokenizers=("lfq",), generators=("dit", "ar", "maskgit"), seeds=(0,))
    tokens = {"dit": 16.0, "ar": 320.0, "maskgit": 320.0}
    found = []
    for cell in of.cells:
        count = tokens[value(cell.words, "generator")]
        found.append(record(cell.words, 0, "generator/trunk_tokens", count))
        found.append(record(cell.words, 0, "generator/train_clips", 76_800 / count))
    rows = by_name(of, found)
    assert [row["Tokens in the trunk"] for row in rows.values()] == ["16<sup>a</sup>", "320", "320"]
    assert [row["Clips trained on"] for row in rows.values()] == ["4,800", "240", "240"]
    assert letters(of, found) == {"a": "tokens in the trunk over 5 % off the median, 320"}


def test_what_the_grid_varies_is_not_held_equal() -> None:
    of = suite(
        *(("tokenizer=lfq", f"generator={part}", f"generator.depth={depth}") for depth in (2, 8) for part in ("dit", "ar")),
        tokenizers=(),
    )

    def figure(words: tuple[str, ...], seed: int) -> float:
        return 1e6 if "generator.depth=2" in words else 4e6

    assert letters(of, all_records(of, figure, names=("generator/parameters",))) == {}
    many = [
        replace(one, row=replace(one.row, step=900 if "depth=2" in one.origin.command else 1200))
        for one in all_records(of, names=("samples/law_legal",))
    ]
    assert letters(of, many) == {}


def test_budgets_of_work_are_held_equal_by_the_work() -> None:
    words = {"tokenizer": ("seconds", 60.0), "generator": ("flops", 1e12)}
    of = suite(tokenizers=("kl", "vq", "lfq"), generators=("dit",), budget=words)
    spent = {"kl": 1.0e12, "vq": 1.01e12, "lfq": 1.5e12}
    found = [record(cell.words, cell.seed, "generator/train_flops", spent[value(cell.words, "tokenizer")]) for cell in of.cells]
    found += [record(cell.words, cell.seed, "tokenizer/train_seconds", 60.0 + 30 * cell.seed) for cell in of.cells]
    found += [
        record(cell.words, cell.seed, "samples/law_legal", 0.5, step=100 * len(value(cell.words, "tokenizer")))
        for cell in of.cells
    ]
    rows = by_name(of, found)
    assert [row["Generator"] for row in rows.values()] == ["dit", "dit", "dit<sup>a</sup>"]
    assert letters(of, found) == {"a": "1.5 T flops, over 5 % off the median, 1.01 T"}
    assert "Training a tokenizer took 60 to 120 s." in suite_tables.markdown(suite_tables.of(of, found))
    found.append(replace(found[0], row=replace(found[0].row, name="samples/class_accuracy", step=7)))
    assert "seeds of 200 and 7 steps" in letters(of, found).values()


def test_a_residual_that_few_clips_have_is_marked_and_never_the_best() -> None:
    """Their number is a result and not marked by itself; the mean of the few that could be read is low for their kind alone."""
    of = suite(seeds=(0,))
    read = {"kl": 120, "lfq": 10}
    found = all_records(of, names=("samples/law_legal",))
    for place, cell in enumerate(of.cells):
        clips = read[value(cell.words, "tokenizer")]
        found.append(record(cell.words, 0, "samples/law_residual", 0.5 - 0.1 * place, n=clips))
    rows = by_name(of, found)
    assert [row["Law residual"] for row in rows.values()] == ["0.500", "**0.400**", "0.300<sup>a</sup>", "0.200<sup>a</sup>"]
    assert letters(of, found) == {"a": "of fewer than half of the clips: the others could not be read"}
    assert "of law residuals, among recipes" in suite_tables.markdown(suite_tables.of(of, found))


def test_rules_that_name_the_codebook_may_differ() -> None:
    of = suite(seeds=(0,))
    found = [
        record(cell.words, 0, "codebook/usage", 0.5, protocol=f"ids of {value(cell.words, 'tokenizer')}") for cell in of.cells
    ]
    assert letters(of, found) == {}


def test_letters_go_on_after_z() -> None:
    found = [suite_tables._letter(number) for number in range(60)]
    assert (found[0], found[25], found[26], found[27], found[52]) == ("a", "z", "aa", "ab", "ba")
    assert all(one != other for one, other in pairwise(found))


# Protocols --------------------------------------------------------------------------------------------------------------


def test_a_column_says_its_protocol_and_refuses_a_second() -> None:
    of = suite()
    found = all_records(of)
    assert "motion-FD ↓<br>`run@0123abcd, 128 clips`" in suite_tables.markdown(suite_tables.of(of, found))
    mixed = [*found, record(LFQ_DIT, 0, FD, 3.0, protocol="run@4567abcd, 128 real clips")]
    with pytest.raises(UserError, match=r"motion_fd of suites/tiny.jsonl holds figures of run@0123abcd and of run@4567abcd"):
        suite_tables.of(of, mixed)
    with pytest.raises(UserError, match=r"motion_fd of suites/tiny.jsonl"):
        suite_tables.of(of, [*found, baseline("training clips", FD, 3.0, protocol="run@4567abcd")])


def test_the_column_of_copies_says_how_much_of_the_training_set_was_searched() -> None:
    """It finds nothing beyond, whatever the figure."""
    rule = "nearer to one of 2048 training clips than 95% of 256 unseen clips are, motion"
    of = suite(seeds=(0,))
    found = [record(cell.words, 0, "samples/memorised", 0.0, protocol=rule) for cell in of.cells]
    assert "| Memorised, %<br>`first 2,048 training clips searched` |" in suite_tables.markdown(suite_tables.of(of, found))
    typed = replace(of, cells=tuple(replace(cell, words=(*cell.words, "generator.training.clips=4096")) for cell in of.cells))
    found = [record(cell.words, 0, "samples/memorised", 0.0, protocol=rule) for cell in typed.cells]
    assert "<br>`first 2,048 of 4,096 training clips searched` |" in suite_tables.markdown(suite_tables.of(typed, found))


def test_fvd_stands_empty_with_its_command_until_it_is_filled() -> None:
    of = suite(seeds=(0,))
    found = all_records(of)
    text = suite_tables.markdown(suite_tables.of(of, found))
    assert {row["FVD"] for row in cells(of, found)} == {""}
    assert "fake=RUN protocol=run protocol.metric.ddof=0 extractor=i3d-styleganv extractor.path=FILE out=fvd" in text
    assert "python benchmarks/fvd.py tiny fvd" in text
    found += [record(cell.words, 0, "samples/fvd", 200.0, protocol="run+@abcdabcd") for cell in of.cells]
    assert {row["FVD"] for row in cells(of, found)} == {"200"}
    assert "vidgen eval" not in suite_tables.markdown(suite_tables.of(of, found))
    published = replace(of, name="ucf101")
    assert "protocol=ucf101-class-128" in suite_tables.markdown(suite_tables.of(published, all_records(published)))


# LaTeX ------------------------------------------------------------------------------------------------------------------


def test_latex_escapes_what_it_must() -> None:
    assert suite_tables.escaped(r"50% of a_b & c#d {e} $f ~g ^h \i") == (
        r"50\% of a\_b \& c\#d \{e\} \$f \textasciitilde{}g \textasciicircum{}h \textbackslash{}i"
    )
    assert suite_tables.inline("`a_b=[1,2]` and **so** it *is*, 2 * 3") == (
        r"\texttt{a\_b=[1,2]} and \textbf{so} it \textit{is}, 2 * 3"
    )


def test_latex_holds_what_markdown_holds() -> None:
    of = suite(("tokenizer=lfq", "generator=dit", "generator.guidance_scale=1.0"))
    found = [*all_records(of, names=(FD, "samples/law_legal")), baseline("training clips", FD, 0.5)]
    table = suite_tables.of(of, found)
    text = suite_tables.latex(table)
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 1 + len(table.body) + len(table.baselines)
    columns = re.search(r"\\begin\{tabular\}\{(l+r+)\}", text)[1]
    assert {len(row) for row in rows} == {len(columns)}
    assert columns.startswith("lllr")
    assert rows[1][-1] == rows[1][-1].replace("±", "") and r"$\pm$" in text
    assert r"\texttt{generator.guidance\_scale=1.0}" in text
    assert r"run@0123abcd\\128 clips" in text
    assert text.count("{") == text.count("}")
    assert text.isascii()


def test_the_same_records_render_to_the_same_bytes() -> None:
    of = suite()
    found = all_records(of, names=(FD, "samples/law_legal", "generator/parameters"))
    again = [one for line in to_lines(found) for one in from_line(line)]
    for render in (suite_tables.markdown, suite_tables.latex):
        assert render(suite_tables.of(of, found)) == render(suite_tables.of(suite(), again))
