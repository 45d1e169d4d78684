"""Headless Chromium over its debugging pipe (Chrome DevTools Protocol): a real clock, which charts drawn by web workers
need (they stay empty under --virtual-time-budget), and no package."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# Chromium reads requests from descriptor 3 and answers on 4.
CONNECT = """
import fcntl, os, sys
requests, answers = (fcntl.fcntl(int(descriptor), fcntl.F_DUPFD, 10) for descriptor in sys.argv[1:3])
os.dup2(requests, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class PageError(RuntimeError):
    """The page cannot answer, for instance because it is being replaced by another."""


class Browser:
    """One page in a new profile; only this machine can be reached.

    Args:
        profile: an empty or absent folder.
        size: width and height of the window, pixels.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1400, 1000)) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        command = [str(CHROMIUM), *OPTIONS, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(requests), str(answers), *command],
            pass_fds=(requests, answers),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(requests)
        os.close(answers)
        self._unread = b""
        self._numbers = itertools.count(1)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        self._call("Page.navigate", self._session, url=url)

    def resize(self, width: int, height: int) -> None:
        """Show pages as a window, or a telephone, of so many pixels does."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", self._session, **size)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; None if it has none."""
        answer = self._call("Runtime.evaluate", self._session, expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def html(self) -> str:
        """The document as it is now; nothing while another one comes."""
        return self.evaluate("document.documentElement.outerHTML") or ""

    def pixels(self) -> np.ndarray:
        """What the window shows now, uint8 [height, width, 3]."""
        png = base64.b64decode(self._call("Page.captureScreenshot", self._session)["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def wait_until(self, condition: Callable[[Browser], bool], seconds: float = 60) -> bool:
        """Whether `condition` comes true in that time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(PageError):
                if condition(self):
                    return True
            time.sleep(0.3)
        return False

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": parameters}
        request |= {"sessionId": session} if session else {}
        os.write(self._requests, json.dumps(request).encode() + b"\0")
        while True:
            while b"\0" not in self._unread:
                received = os.read(self._answers, 2**16)
                assert received, "Chromium ended"
                self._unread += received
            message, _, self._unread = self._unread.partition(b"\0")
            answer = json.loads(message)
            if answer.get("id") == number:
                if "error" in answer:
                    raise PageError(answer["error"]["message"])
                return answer["result"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._requests)
        os.close(self._answers)
