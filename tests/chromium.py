"""A page in headless Chromium, over its DevTools pipe: what it shows, asks for and complains of.

``python tests/chromium.py work/report/index.html`` says how long a report takes to open, and then its first two scans.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


def found() -> str | None:
    """The program, from the environment variable CHROMIUM or the path."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(
    found() is None, reason="no Chromium on the path (apt install chromium), nor named by CHROMIUM=/path/to/it"
)


class Browser:
    """One page."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.process, self.to, self.back = process, to, back
        self.rest = b""
        self.count = 0
        self.session: str | None = None
        self.requests: list[str] = []  # addresses, without data:
        self.complaints: list[str] = []  # errors and warnings of the console, and refusals of the policy

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(120)
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return dict(answer.get("result", {}))

    def _next(self, seconds: float) -> dict[str, Any]:
        ends = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0.0, ends - time.monotonic()))
            assert ready, "the browser does not answer"
            read = os.read(self.back, 1 << 20)
            assert read, "the browser has ended"
            self.rest += read
        text, _, self.rest = self.rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._heard(message.get("method", ""), message.get("params", {}))
        return message

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 90) -> None:
        """Until an expression is true."""
        ends = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < ends, f"never true: {script}"
            time.sleep(0.05)

    def picture(self, selector: str | None = None) -> NDArray[np.uint8]:
        """(rows, cols, 3) of what is on the screen, or of one element, once what was asked for is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        more: dict[str, Any] = {}
        if selector is not None:
            box = self.run(
                f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect();"
                "return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}; })()"
            )
            more = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        png = base64.b64decode(self.send("Page.captureScreenshot", format="png", **more)["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code="Space" if key == " " else key, **text)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of an element."""
        where = self.run(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)


@contextmanager
def opened(
    page: Path, *, width: int = 1100, height: int = 900, dark: bool = False, before: str = "", script: bool = True
) -> Iterator[Browser]:
    """A page, loaded from the disk without a network.

    Args:
        page: The file.
        width: Of the window, in pixels.
        height: Of the window, in pixels.
        dark: The reader prefers dark pages.
        before: Runs before the page's own scripts.
        script: Whether the page may run scripts.
    """
    program = found()
    assert program is not None
    to_read, to = os.pipe()
    back, back_write = os.pipe()

    def take_pipes() -> None:
        # The two numbers may be 3 or 4 themselves: out of the way first.
        reading, writing = os.dup(to_read), os.dup(back_write)
        reading, writing = (os.dup2(one, 60 + k) for k, one in enumerate((reading, writing)))
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, close_fds=False, preexec_fn=take_pipes,
            start_new_session=True,
        )  # fmt: skip
        os.close(to_read)
        os.close(back_write)
        browser = Browser(process, to, back)
        try:
            target = browser.send("Target.createTarget", url="about:blank")["targetId"]
            browser.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.send(f"{domain}.enable")
            browser.send(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )
            browser.send(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
            )
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            browser.send("Emulation.setEmulatedMedia", features=[scheme])
            if before:
                browser.send("Page.addScriptToEvaluateOnNewDocument", source=before)
            if not script:
                browser.send("Emulation.setScriptExecutionDisabled", value=True)
            browser.send("Page.navigate", url=page.resolve().as_uri())
            browser.wait("document.readyState === 'complete' && location.protocol === 'file:'")
            yield browser
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has begun
            process.wait()
            os.close(to)
            os.close(back)


def _opening_times(page: Path, times: int = 3) -> str:
    loaded, state = [], "document.getElementById('viewer')?.dataset.state"
    said = ""
    for _ in range(times):
        with opened(page) as browser:
            loaded.append(browser.run("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"))
            if browser.run("document.getElementById('viewer') === null") or said:
                continue
            browser.wait(f"{state} === 'closed'")
            for button in ("start", "after"):
                begun = time.monotonic()
                browser.click(f"#viewer-{button}")
                browser.wait(f"{state} === 'ready'")
                said += f", {time.monotonic() - begun:.1f} s to {'the first' if button == 'start' else 'the next'} scan"
    return f"{page}: {page.stat().st_size / 1e6:.1f} MB, open after {statistics.median(loaded):.1f} s{said}"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(_opening_times(Path(argument)))
