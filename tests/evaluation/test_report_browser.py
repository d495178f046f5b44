"""The report as a browser sees it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, started

from vidgen.evaluation.report import write_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with started(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("browser") / finished_run.name
    shutil.copytree(finished_run, run)
    return write_report(run)


# Resolves when every video has data to show or has failed; a page that never gets there is told apart by its states.
DECODED = """
new Promise(resolve => {
  const videos = [...document.querySelectorAll("video")];
  const state = v => ({ready: v.readyState, width: v.videoWidth, height: v.videoHeight, error: v.error && v.error.message});
  const started = performance.now();
  (function look() {
    const done = videos.every(v => v.readyState >= 2 || v.error);
    if (done || performance.now() - started > 30000) resolve(videos.map(state));
    else setTimeout(look, 50);
  })();
})
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_page_loads_without_error_and_fits(browser: Browser, page: Path, width: int):
    browser.open(page, width=width)
    videos = browser.run(DECODED)
    assert len(videos) == 7  # reconstructions, three classes, three previews
    assert all(v["ready"] >= 2 and v["width"] > 0 and v["error"] is None for v in videos), videos
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.errors() == []
    assert browser.requests() == []


def test_videos_play_by_themselves_and_stop_on_demand(browser: Browser, page: Path):
    browser.open(page, width=1280)
    browser.run(DECODED)
    first = "document.querySelector('video')"
    browser.run(f"new Promise(done => {{ const v = {first}; v.ontimeupdate = () => v.currentTime > 0 && done(); }})")
    assert browser.run(f"{first}.muted && {first}.loop && !{first}.controls")
    browser.run("document.getElementById('play').click()")
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.paused)")
    browser.run("document.getElementById('speed').click()")
    assert browser.run(f"{first}.playbackRate") == 0.5
    browser.run(f"{first}.click()")
    assert browser.run(f"{first}.controls") is True
    assert browser.errors() == []


def test_clips_fill_their_column_but_not_the_window(browser: Browser, page: Path):
    browser.open(page, width=1280, height=900)
    browser.run(DECODED)
    sizes = browser.run(
        "[...document.querySelectorAll('video')].map(v => [v.clientWidth, v.clientHeight, v.parentElement.clientWidth])"
    )
    assert all(width == room or abs(height - 0.8 * 900) < 1 for width, height, room in sizes), sizes
    assert all(height <= 0.8 * 900 + 1 for _, height, _ in sizes), sizes


def test_a_hostile_run_runs_nothing(browser: Browser, page: Path):
    run = page.parent
    attack = "<img src=x onerror=console.error(1)><script>console.error(2)</script>\"'{{7*7}}"
    (run / "samples" / "bounce.json").write_text(json.dumps({"title": attack, "caption": attack, "kind": "class"}))
    (run / "config.yaml").write_text(json.dumps({"command": attack, "route": attack, "words": attack}))
    browser.open(write_report(run), width=1280)
    assert browser.run("document.getElementById('command').textContent") == attack
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.errors() == []
