"""Records of suites as runs, cells and families."""

from __future__ import annotations

from dataclasses import replace

import lines
import measured
from made_suites import curve, grid, records, results, sizes


def test_runs_hold_results_and_the_validation_loss_of_their_generator() -> None:
    from vidgen.evaluation.rows import Row

    other = [
        Row(stage="generator", split="train", step=100, seconds=1.0, name="loss/total", value=9.0),
        Row(stage="tokenizer", split="val", step=100, seconds=1.0, name="loss/validation", value=9.0),
    ]
    rows = [
        *results(samples__law_legal=0.5),
        *other,
        *curve(1.0, steps=300),
        *results(samples__law_legal=0.75, samples__motion_fd=float("nan")),
    ]
    (run,) = measured.runs(records(rows))
    assert (run.tokenizer, run.quantizer, run.generator) == ("lfq", "", "dit")
    assert run.value("samples/law_legal") == 0.75
    assert run.value("samples/motion_fd") is run.value("samples/psnr") is None
    assert list(run.losses) == [100, 200, 300] and run.final_loss == 1.0


def test_baselines_are_no_runs_and_each_of_their_points_stands_alone() -> None:
    found = list(grid(seeds=1))
    assert len(measured.runs(found)) == 24
    codec = [run for run in measured.baselines(found) if run.origin.tokenizer.startswith("H.264")]
    assert [run.value("reconstruction/psnr") for run in codec] == [26.7, 29.6, 35.3, 38.5, 40.0]


def test_cells_are_named_by_what_differs() -> None:
    made = [
        *records(results(a__b=1.0), words=["evaluation.samples=8", "trainer.precision=32"]),
        *records(results(a__b=2.0), words=["evaluation.samples=8", "trainer.precision=32"], seed=1),
        *records(results(a__b=3.0), words=["evaluation.samples=8", "generator.guidance_scale=1.0"]),
        *records(results(a__b=4.0), words=["evaluation.samples=8", "'tokenizer.backbone.patch=[4,8,8]'"]),
        *records(results(a__b=5.0), words=["evaluation.samples=8"], generator=None),
        *records(results(a__b=6.0), words=["evaluation.samples=8"], tokenizer="lfq, quantizer pyramid_lfq", generator="var"),
    ]
    named = {key: [run.value("a/b") for run in own] for key, own in measured.cells(measured.runs(made)).items()}
    assert named == {
        ("lfq", "dit"): [1.0, 2.0],
        ("lfq", "dit, guidance scale 1.0"): [3.0],
        ("lfq, patch [4,8,8]", "dit"): [4.0],
        ("lfq", ""): [5.0],
        ("lfq", "var"): [6.0],
    }
    assert measured.cells([]) == {}
    assert measured.runs(made)[-1].quantizer == "pyramid_lfq"
    assert measured.runs(made)[3].typed("tokenizer.backbone.patch") == "[4,8,8]" and measured.runs(made)[0].typed("data") == ""


def test_steps_of_a_budget_are_in_no_name_unless_they_are_what_differs() -> None:
    made = [record for steps in (100, 200) for record in records(results(a__b=1.0), words=[f"tokenizer.training.steps={steps}"])]
    assert list(measured.cells(measured.runs(made))) == [("lfq, steps 100", "dit"), ("lfq, steps 200", "dit")]
    made = records(results(a__b=1.0), words=["generator.training.steps=100"])
    made += records(results(a__b=1.0), words=["generator.training.steps=200"], generator="ar")
    assert list(measured.cells(measured.runs(made))) == [("lfq", "dit"), ("lfq", "ar")]


def test_what_was_measured_in_several_ways_was_trained_once() -> None:
    made = []
    for scale in (1.0, 2.0):
        for seed in (0, 1):
            words = ["generator.training.steps=100", f"evaluation.guidance_scale={scale}"]
            made += records([*results(a__b=scale), *curve(1.0)], words=words, seed=seed)
    found = measured.runs(made)
    assert list(measured.cells(found)) == [("lfq", "dit, guidance scale 1.0"), ("lfq", "dit, guidance scale 2.0")]
    assert {key: [run.origin.seed for run in own] for key, own in measured.trained(found).items()} == {("lfq", "dit"): [0, 1]}


def test_families_differ_in_size_alone() -> None:
    two = sizes("ar", -0.1, widths=(32, 64))
    guided = records(results(a__b=1.0), tokenizer="pyramid_lfq", generator="var", words=["generator.guidance_scale=1.0"])
    found = measured.families(measured.runs([*sizes("var", -0.1), *two, *guided, *sizes("dit", -0.1, widths=(8, 16, 32))]))
    assert {name: len(own) for name, own in found.items()} == {"var × pyramid_lfq": 15, "dit × pyramid_lfq": 9}


def test_families_of_one_pair_are_told_apart_by_their_settings() -> None:
    made = []
    for width in (1, 2, 3):
        for scale in (1.0, 2.0):
            made += records(results(a__b=1.0), words=[f"generator.width={width}", f"generator.guidance_scale={scale}"])
    assert list(measured.families(measured.runs(made))) == ["dit × lfq, guidance scale 1.0", "dit × lfq, guidance scale 2.0"]


def test_points_need_both_figures_above_zero() -> None:
    made = [
        *records([*results(generator__parameters=10.0), *curve(1.0, steps=200)]),
        *records(results(generator__parameters=20.0), seed=1),
        *records([*results(generator__parameters=0.0), *curve(1.0)], seed=2),
    ]
    assert measured.points(measured.runs(made), "generator/parameters", measured.LOSS) == [(10.0, 1.0)]


def test_what_was_typed_is_found_whatever_stands_before_it() -> None:
    """A command without its first words loses none of its options."""
    (whole,) = measured.runs(records(results(a__b=1.0), words=["'tokenizer.backbone.patch=[4,8,8]'"]))
    origin = replace(whole.origin, command=whole.origin.command.removeprefix("vidgen fit "))
    assert origin.command != whole.origin.command
    cut = measured.Run(origin)
    assert cut.typed("tokenizer") == whole.typed("tokenizer") == "lfq"
    assert cut.words == whole.words == ("tokenizer.backbone.patch=[4,8,8]",)


def test_a_machine_says_how_many_of_its_cores_were_used() -> None:
    assert lines.cores({"cores": 2}) == lines.cores({"cores": 2, "threads": 2}) == "2 cores"
    assert lines.cores({"cores": 2, "threads": 1}) == "1 of 2 cores"


def test_many_commits_are_the_first_and_the_last() -> None:
    assert lines.at([None]) == ""
    assert lines.at(["a", None, "b", "a"]) == " at `a`, `b`"
    assert lines.at("abcde") == " at `a` to `e`, 5 commits"
