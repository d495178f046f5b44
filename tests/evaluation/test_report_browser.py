"""The report as a browser sees it: headless Chromium, driven over the DevTools protocol with the standard library alone."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidgen.evaluation.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
PATIENCE = 60.0  # seconds for any single answer
# Becomes the browser, its pipes moved to 3 and 4: by way of higher numbers, since either may already be 3 or 4.
LAUNCH = """
import os, sys
for source, target in ((int(sys.argv[1]), 200), (int(sys.argv[2]), 201), (200, 3), (201, 4)):
    os.dup2(source, target)
os.closerange(200, 202)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a headless Chromium.

    With ``--remote-debugging-pipe`` the browser reads commands from file descriptor 3 and writes answers and events to 4,
    each a JSON text ended by a zero byte. ``events`` keeps the events in the order they came.
    """

    def __init__(self, program: str, profile: Path) -> None:
        commands_in, self._commands = os.pipe()
        self._answers, answers_out = os.pipe()

        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands_in), str(answers_out), program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands_in, answers_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_in)
        os.close(answers_out)
        self._buffer = b""
        self._id = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Make the page and listen to it."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Give a command and wait for its answer; events that come meanwhile are kept."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, until - time.monotonic()))
            assert ready, f"the browser did not answer within {PATIENCE:.0f} s"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file in a window of this size (also below the 500 px that a real window cannot go under)."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def run(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def errors(self) -> list[str]:
        """Everything that the console shows as an error or a warning since the page was opened, and uncaught exceptions."""
        found = []
        for event in self.events:
            params = event["params"]
            if (
                event["method"] == "Runtime.exceptionThrown"
                or (event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"))
                or (event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
            ):
                found.append(json.dumps(params))
        return found

    def requests(self) -> list[str]:
        """Where the page went for anything but itself and what it embeds."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "file:"))]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG, however long."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """The browser leaves when nobody can speak to it any more; one that does not is made to."""
        os.close(self._commands)
        os.close(self._answers)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    running = Browser(program, tmp_path_factory.mktemp("profile"))
    try:
        running.attach()
        yield running
    finally:
        running.close()


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
