"""A page in headless Chromium, through the DevTools protocol."""

import asyncio
import base64
import json
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
)
_TRIES, _PAUSE = 600, 0.1


class Page:
    """An open page; `requests` are what it asked for, `errors` what it complained of."""

    def __init__(self, socket):
        self._socket, self._last = socket, 0
        self.requests, self.errors = [], []

    async def send(self, method, **parameters):
        """Send a command and return its result."""
        self._last += 1
        number = self._last
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": parameters})
        )
        while True:
            answer = json.loads(await self._socket.read_message())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer["method"], answer["params"])

    def _note(self, method, parameters):
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        if method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(str(parameters["args"]))

    async def value(self, expression):
        """Return the value of an expression in the page."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression):
        """Wait until an expression is true, and return its value."""
        for _ in range(_TRIES):
            if found := await self.value(expression):
                return found
            await asyncio.sleep(_PAUSE)
        raise AssertionError(f"it never came true: {expression}; errors: {self.errors}")

    async def click(self, expression):
        """Click with the mouse in the middle of an element."""
        at = await self.until(
            f"(() => {{ const e = {expression}; if (!e) return null;"
            " e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1
            )

    async def type(self, text):
        """Type into what has the focus."""
        await self.send("Input.insertText", text=text)

    async def look(self, *, width, height, dark=False):
        """Show the page in a window of this size."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    async def screenshot(self, whole=False):
        """Return a PNG of the window, or of the whole page."""
        answer = await self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def opened(program, file, folder):
    """Yield the page of `file` once it has loaded; the browser keeps its files in `folder`."""
    command = [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    socket = None
    try:
        socket = await websocket_connect(await _address(folder), max_message_size=2**28)
        page = Page(socket)
        for domain in ("Page", "Network", "Runtime"):
            await page.send(f"{domain}.enable")
        await page.send("Page.navigate", url=Path(file).resolve().as_uri())
        await page.until("document.readyState == 'complete'")
        yield page
    finally:
        if socket is not None:
            socket.close()
        browser.kill()
        browser.wait()


async def _address(folder):
    """Return the address of the browser's first page."""
    port = Path(folder) / "DevToolsActivePort"
    for _ in range(_TRIES):
        if port.exists() and len(lines := port.read_text().splitlines()) > 1:
            answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{lines[0]}/json/list")
            pages = [page for page in json.loads(answer.body) if page["type"] == "page"]
            if pages:
                return pages[0]["webSocketDebuggerUrl"]
        await asyncio.sleep(_PAUSE)
    raise AssertionError("the browser did not start")
