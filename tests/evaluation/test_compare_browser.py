"""The page of many runs as a browser sees it: sorted, filtered, played, set side by side, by keyboard and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, started
from compared import FD, FRAMES, LEGAL, PSNR, cell

from vidgen.evaluation.compare import content, write_page

ATTACK = "</script><script>console.error(1)</script><img src=x onerror=console.error(2)>\"'{{7*7}}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recipes of two seeds and a baseline. Greys of the samples: kl from 20, lfq from 80, vq from 140, seeds 5 apart."""
    values = {"kl": (33.0, 0.2, 4.0), "lfq": (31.0, 0.6, 2.5), "vq": (32.0, 0.4, None)}
    cells = [
        cell(
            name,
            generator,
            seed,
            {key: value for key, value in zip((PSNR, LEGAL, FD), values[name], strict=True) if value is not None},
            settings={"tokenizer.bits": bits},
            first=grey + 5 * seed,
        )
        for name, generator, bits, grey in (("kl", "dit", 8, 20), ("lfq", "dit", 10, 80), ("vq", "ar", 9, 140))
        for seed in (0, 1)
    ]
    cells.append(cell("H.264", None, values={PSNR: 40.0}, settings={}, baseline=True, command="", config="", curves=()))
    return write_page(content(cells, title="Which one?", words="Equal steps."), tmp_path_factory.mktemp("page") / "page.html")


def names(browser: Browser) -> list[str]:
    return browser.run("[...document.querySelectorAll('tr[data-line] .open')].map(name => name.textContent)")


def sort(browser: Browser, key: str) -> Any:
    browser.run(f"document.querySelector('[data-sort=\"{key}\"]').click()")
    return browser.run(f"document.querySelector('[data-sort=\"{key}\"]').closest('th').getAttribute('aria-sort')")


def choose(browser: Browser, id: str, value: str, event: str = "change") -> None:
    browser.run(
        f"{{ const it = document.getElementById('{id}'); it.value = '{value}'; it.dispatchEvent(new Event('{event}')); }}"
    )


def press(browser: Browser, key: str, code: int = 0, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        browser.send(
            "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text if kind == "keyDown" else ""
        )


def frame(browser: Browser) -> int:
    return int(browser.run("document.getElementById('frame').value"))


def greys(browser: Browser) -> list[list[int]]:
    """The middle of each sample of each canvas, once its picture is there."""
    return browser.run(
        """(async () => {
          await Promise.all([...pictures.values()].map(image => image.decode()));
          paint();
          return [...document.querySelectorAll("canvas")].map(canvas => {
            const copy = new OffscreenCanvas(50, 16).getContext("2d", { willReadFrequently: true });
            copy.drawImage(canvas, 0, 0);
            return [8, 25, 42].map(x => copy.getImageData(x, 8, 1, 1).data[0]);
          });
        })()"""
    )


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (900, True), (400, False)])
def test_the_page_opens_without_error_and_fits(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.title") == "Which one? · vidgen"
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelector('tbody .open').click()")
    choose(browser, "right", "vq-x-ar")
    assert browser.run("document.getElementById('inside').scrollWidth <= document.getElementById('inside').clientWidth")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.errors() == []
    assert browser.requests() == []


def test_columns_sort_best_first_then_worst_then_not_at_all(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    assert names(browser) == ["kl x dit", "lfq x dit", "vq x ar", "H.264"]
    assert sort(browser, LEGAL) == "descending"
    assert names(browser) == ["lfq x dit", "vq x ar", "kl x dit", "H.264"]  # what has no value comes last
    assert sort(browser, LEGAL) == "ascending"
    assert names(browser) == ["kl x dit", "vq x ar", "lfq x dit", "H.264"]
    assert sort(browser, LEGAL) is None
    assert sort(browser, FD) == "ascending"  # lower is better
    assert names(browser)[:2] == ["lfq x dit", "kl x dit"]
    assert browser.run("document.activeElement.dataset.sort") == FD  # the focus stays
    assert browser.errors() == []


def test_filters_leave_what_was_asked_for_and_mark_the_best_of_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    best = "[...document.querySelectorAll('.best')].map(one => one.textContent)"
    assert sorted(browser.run(best)) == ["2.50", "33.00", "60.0"]  # not the baseline, though it has more
    choose(browser, "generator", "dit")
    assert names(browser) == ["kl x dit", "lfq x dit"]
    choose(browser, "generator", "")
    choose(browser, "filter", "AR vq", "input")
    assert names(browser) == ["vq x ar"]
    assert browser.run(best) == []
    choose(browser, "filter", "nothing like it", "input")
    assert "No recipe has these words." in browser.run("document.getElementById('board').textContent")
    assert browser.run("location.hash") == "#filter=nothing+like+it"


def test_a_best_is_of_one_rate_and_of_common_seeds_and_never_of_seconds(browser: Browser, tmp_path: Path) -> None:
    rate, seconds = "tokenizer/bits_per_pixel", "samples/seconds"
    made = [("kl", 1.0, [36.0]), ("vq", 0.2, [31.0, 33.0, 39.0]), ("lfq", 0.201, [31.5, 33.0])]
    cells = [
        cell(name, seed=seed, values={PSNR: psnr, rate: bits, seconds: psnr}, curves=())
        for name, bits, figures in made
        for seed, psnr in enumerate(figures)
    ]
    browser.open(write_page(content(cells, title="Which one?"), tmp_path / "page.html"), width=1280)
    best = "[...document.querySelectorAll('.best')].map(one => one.textContent)"
    assert browser.run(best) == ["32.25"]  # lfq's; kl has another rate, vq is ahead by its third seed alone


def test_a_best_is_of_half_the_clips_at_least(browser: Browser, tmp_path: Path) -> None:
    """The few clips that could be read are those that are right."""
    read = [("kl", 9.0, 40), ("vq", 8.0, 64), ("lfq", 7.0, 128)]
    cells = [cell(name, values={PSNR: psnr}, curves=()) for name, psnr, _ in read]
    for one, (_, _, n) in zip(cells, read, strict=True):
        one.rows[PSNR] = replace(one.rows[PSNR], n=n)
    browser.open(write_page(content(cells, title="Which one?"), tmp_path / "page.html"), width=1280)
    best = "[...document.querySelectorAll('.best')].map(one => one.textContent)"
    assert browser.run(best) == ["8.00"]


def test_columns_are_picked_by_group_and_one_by_one(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    heads = "[...document.querySelectorAll('[data-sort]')].slice(1).map(head => head.dataset.sort)"
    assert set(browser.run(heads)) == {PSNR, LEGAL, FD}
    browser.run("[...document.querySelectorAll('#groups button')].find(one => one.textContent === 'Generation').click()")
    assert browser.run(heads) == [PSNR]
    browser.run(f"document.querySelector('#picker input[value=\"{FD}\"]').click()")
    assert browser.run(heads) == [PSNR, FD]
    pressed = "[...document.querySelectorAll('#groups button')].map(one => one.getAttribute('aria-pressed'))"
    assert browser.run(pressed) == ["true", "true"]


def test_seeds_unfold_with_their_own_figures(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('[data-seeds=\"lfq-x-dit\"]').click()")
    assert browser.run("[...document.querySelectorAll('tr.seed th')].map(one => one.textContent)") == ["seed 0", "seed 1"]
    assert browser.run("document.activeElement.dataset.seeds") == "lfq-x-dit"
    browser.run("document.querySelectorAll('tr.seed .open')[1].click()")
    assert browser.run("document.getElementById('seed').value") == "1"


def test_samples_of_a_cell_are_cut_out_of_its_sprite(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('tbody .open').click()")
    browser.run("document.getElementById('play').click()")  # pauses
    for at in (0, 3):
        choose(browser, "frame", str(at), "input")
        for label, row in enumerate(greys(browser)):
            assert all(abs(grey - (20 + 20 * label + 10 * at)) <= 3 for grey in row), (at, label, row)
    assert browser.run("document.getElementById('count').textContent") == f"frame 4 of {FRAMES}"
    assert browser.run("[...document.querySelectorAll('.stage .label')].map(one => one.textContent)") == ["bounce", "gravity"]


def test_samples_play_and_stop(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('tbody .open').click()")
    moved = """new Promise(done => {
      const slider = document.getElementById("frame"), before = slider.value;
      (function look() { slider.value === before ? setTimeout(look, 20) : done(true); })();
    })"""
    assert browser.run(moved)
    browser.run("document.getElementById('play').click()")
    before = frame(browser)
    assert browser.run("new Promise(done => setTimeout(() => done(document.getElementById('frame').value), 300))") == str(before)


def test_nothing_moves_where_motion_is_not_wanted(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    browser.run("document.querySelector('tbody .open').click()")
    assert browser.run("document.getElementById('play').textContent") == "Play"


def test_two_cells_show_the_same_seed_and_label_in_step_and_what_differs(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('tbody .open').click()")
    choose(browser, "right", "vq-x-ar")
    choose(browser, "seed", "1")
    choose(browser, "label", "gravity")
    choose(browser, "frame", "2", "input")
    left, right = greys(browser)
    assert abs(left[0] - (20 + 5 + 20 + 20)) <= 3 and abs(right[0] - (140 + 5 + 20 + 20)) <= 3
    rows = "[...document.querySelectorAll('#differences tbody tr')].map(row => [...row.children].map(cell => cell.textContent))"
    assert sorted(browser.run(rows)) == [
        ["generator.name", "dit", "ar"],
        ["tokenizer.bits", "8", "9"],
        ["tokenizer.name", "kl", "vq"],
    ]
    figures = browser.run("document.getElementById('figures').textContent")
    assert "33.00" in figures and "32.00" in figures
    commands = browser.run("[...document.querySelectorAll('#about .command code')].map(one => one.textContent)")
    assert commands == ["vidgen fit tokenizer=kl generator=dit seed=1", "vidgen fit tokenizer=vq generator=ar seed=1"]
    choose(browser, "right", "h-264")
    assert "There is no seed 1 of it." in browser.run("document.getElementById('stage').textContent")
    assert browser.errors() == []


def test_a_row_is_opened_played_and_closed_by_keyboard_alone(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run("document.querySelector('tbody .open').focus()")
    press(browser, "ArrowDown", 40)
    press(browser, "Enter", 13, "\r")
    assert browser.run("document.getElementById('shown').textContent") == "lfq x dit"
    assert browser.run("document.activeElement.id") == "play"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(browser, " ", 32, " ")
    assert browser.run("document.getElementById('play').textContent") == "Play"
    at = frame(browser)
    press(browser, "ArrowRight", 39)
    press(browser, "ArrowRight", 39)
    press(browser, "ArrowLeft", 37)
    assert frame(browser) == (at + 1) % FRAMES
    press(browser, "Escape", 27)
    assert browser.run("document.getElementById('viewer').open") is False
    assert browser.run("document.activeElement.textContent") == "lfq x dit"  # where it was
    assert browser.errors() == []


def test_the_address_keeps_what_is_chosen(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    sort(browser, PSNR)
    browser.run("document.querySelector('[data-seeds=\"kl-x-dit\"]').click()")
    browser.run("document.querySelector('tr[data-line=\"kl-x-dit\"] .open').click()")
    choose(browser, "right", "lfq-x-dit")
    choose(browser, "label", "gravity")
    choose(browser, "frame", "3", "input")
    address = browser.run("location.href")
    browser.open(page, width=1280)
    browser.run(f"location.href = {address!r}; new Promise(done => setTimeout(done, 100))")
    assert names(browser) == ["H.264", "kl x dit", "vq x ar", "lfq x dit"]
    assert len(browser.run("[...document.querySelectorAll('tr.seed')].map(String)")) == 2
    assert browser.run("['left', 'right', 'seed', 'label'].map(id => document.getElementById(id).value)") == [
        *("kl-x-dit", "lfq-x-dit", "0", "gravity")
    ]
    assert frame(browser) == 3
    assert browser.run("location.href") == address


def test_curves_are_drawn_of_what_is_ticked(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    lines = "[...document.querySelectorAll('.chart')].map(one => one.querySelectorAll('.line').length)"
    assert browser.run(lines) == [4, 2]  # two seeds each of kl x dit, lfq x dit and of vq x ar
    browser.run("document.querySelector('tr[data-line=\"kl-x-dit\"] input').click()")
    assert browser.run(lines) == [2, 2]
    assert browser.run("document.querySelector('.chart figcaption').textContent") == "lfq x dit 1.500"
    choose(browser, "axis", "1")
    assert "seconds" in browser.run("document.querySelector('.chart svg').textContent")


def test_names_and_commands_are_text_whatever_they_say(browser: Browser, tmp_path: Path) -> None:
    cells = [
        cell(ATTACK, ATTACK, seed, command=ATTACK, config=ATTACK, machine=ATTACK, settings={ATTACK: ATTACK}, data=ATTACK)
        for seed in (0, 1)
    ]
    page = write_page(content([*cells, cell()], title=ATTACK, words=ATTACK, kind=ATTACK), tmp_path / "page.html")
    browser.open(page, width=1280)
    browser.run("document.querySelector('tbody .open').click()")
    choose(browser, "right", "lfq-x-dit")
    assert browser.run("document.querySelector('h1').textContent") == ATTACK
    assert browser.run("document.querySelector('#about .command code').textContent") == ATTACK
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.errors() == []
