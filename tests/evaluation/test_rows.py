import json
import math

import numpy as np
import pytest
import torch

from vidgen.errors import UserError
from vidgen.evaluation.rows import JUDGED, MEASURES, SUBJECTS, Row, append, measure, read

KEYS = {"stage", "split", "step", "seconds", "name", "value", "protocol", "n", "interval"}
CURVE = Row(stage="tokenizer", split="train", step=10, seconds=1.5, name="loss/total", value=0.25)
RESULT = Row(
    stage="evaluation",
    split="test",
    step=900,
    seconds=80.0,
    name="samples/law_legal",
    value=0.8125,
    protocol="worlds judge, 256 samples",
    n=256,
    interval=(0.76, 0.856),
)


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE])
    append(path, [RESULT, CURVE])
    assert read(path) == [CURVE, RESULT, CURVE]
    for line in path.read_text().splitlines():
        assert set(json.loads(line)) == KEYS


def test_no_file_is_no_rows(tmp_path):
    assert read(tmp_path / "metrics.jsonl") == []


def test_a_last_line_cut_short_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE, RESULT])
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.warns(UserWarning, match="cut short"):
        assert read(path) == [CURVE]


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_appending_after_a_kill_begins_a_new_line(tmp_path, cut, recwarn):
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE, RESULT])
    path.write_bytes(path.read_bytes()[:-cut])
    append(path, [CURVE])
    # When only the line break is lost, the row is whole, and stays.
    assert read(path) == ([CURVE, RESULT, CURVE] if cut == 1 else [CURVE, CURVE])
    assert len(recwarn) == (0 if cut == 1 else 1)


def test_a_letter_cut_in_half_is_not_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE])
    with path.open("ab") as file:
        file.write('{"stage": "é'.encode()[:-1])
    with pytest.warns(UserWarning, match="cut short"):
        assert read(path) == [CURVE]


@pytest.mark.parametrize("broken", ["{", "[]", '{"stage": "tokenizer"}', '{"a": 1}', "3", "null"])
def test_a_broken_line_in_the_middle_is_named(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE])
    with path.open("a") as file:
        file.write(broken + "\n")
    append(path, [CURVE])
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl"):
        read(path)


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stage"):
        Row(stage="warmup", split="train", step=0, seconds=0.0, name="loss/total", value=1.0)  # type: ignore[arg-type]
    path = tmp_path / "metrics.jsonl"
    append(path, [CURVE])
    path.write_text(path.read_text().replace('"train"', '"training"'))
    with pytest.raises(UserError, match="split"):
        read(path)


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = Row(stage="generator", split="val", step=3, seconds=2.0, name="loss/total", value=math.inf, interval=(math.nan, 1))
    append(path, [row])
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["value"] is None
    (back,) = read(path)
    assert math.isnan(back.value)
    assert math.isnan(back.interval[0])
    assert back.interval[1] == 1


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("samples/law_legal", 0.8125, "81.2 %"),
        ("samples/law_legal", 1.0, "100 %"),
        ("samples/law_legal", 0.9999, "100.0 %"),
        ("reconstruction/psnr", 31.4159, "31.42 dB"),
        ("reconstruction/ssim", 0.98765, "0.988"),
        ("codebook/dead_codes", 1024, "1,024 codes"),
        ("codebook/perplexity", 312.4, "312 codes"),
        ("tokenizer/parameters", 2_140_312, "2.14 M"),
        ("generator/sample_flops", 1.31e9, "1.31 G FLOPs"),
        ("loss/total", 0.00012345, "0.000123"),
        ("originals/law_residual", 0.042, "0.0420 px"),
        ("loss/total", -0.5, "-0.500"),
        ("loss/total", 0.0, "0"),
        ("loss/total", math.nan, "no value"),
    ],
)
def test_values_are_written_as_a_person_reads_them(name, value, text):
    assert measure(name).text(value) == text


def test_bounds_have_the_decimals_of_their_value():
    residual, legal = measure("samples/law_residual"), measure("samples/law_legal")
    assert [residual.bound(b, 0.11) for b in (0.1, 0.12)] == ["0.100", "0.120"]
    assert [legal.bound(b, 1.0) for b in (0.985, 1.0)] == ["98.5", "100.0"]
    assert [measure("codebook/perplexity").bound(b, 1500.0) for b in (1499.6, math.nan)] == ["1,500", "no value"]


def test_every_subject_of_the_judge_has_every_measure():
    for subject in SUBJECTS:
        for name in JUDGED:
            assert MEASURES[f"{subject}/{name}"] is JUDGED[name]
    assert all(m.label and m.meaning.endswith(".") for m in MEASURES.values())


def test_what_the_judge_says_has_a_meaning():
    """All of it, but for what follows captions, which stands for itself."""
    from vidgen.data.worlds import Worlds
    from vidgen.metrics.physics import Physics

    world = Worlds(families=("occlude", "agent"), height=48, width=64)
    clips = [world.clip("test", index) for index in range(8)]
    video, label, actions = (np.stack([clip[name] for clip in clips]) for name in ("video", "label", "actions"))
    said = set(Physics(world)(video, label, actions).summary())
    known = set(JUDGED) - {"failed"}  # which measure.py counts
    assert known - said == {"energy_error", "momentum_error"} - said
    assert said <= known


def test_what_a_codebook_says_has_a_meaning():
    from vidgen.metrics.codebook_usage import CodebookUsage

    usage = CodebookUsage(levels=(2,))
    usage.update(torch.zeros(1, 1, 1, dtype=torch.long))
    assert {f"codebook/{name}" for name in usage.compute()} == {name for name in MEASURES if name.startswith("codebook/")}


def test_a_third_part_narrows_and_an_unknown_name_stands_for_itself():
    narrowed = measure("samples/law_legal/bounce")
    assert (narrowed.label, narrowed.unit, narrowed.better) == ("Law-legal, bounce", "%", "higher")
    assert measure("loss/entropy_batch").label == "Loss: entropy batch"
    assert measure("loss/entropy_batch").better is None
