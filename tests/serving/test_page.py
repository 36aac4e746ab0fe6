"""The page in a headless Chromium with a fake microphone; skipped unless playwright and a Chromium are installed."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from streamnest.downstream.asr.recognition import TextTask
from streamnest.serving.access import Access
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits

for package in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(package)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

from streamnest.serving.server import Server, bind  # noqa: E402

Audio = Callable[..., torch.Tensor]
TextOf = Callable[[torch.Tensor], str]
Open = Callable[..., Any]
WAIT_MS = 30_000
TOKEN = "0123456789abcdef"


class Recording(Engine):
    """Engine that keeps the samples of all streams.

    Attributes:
        received: pieces of each stream.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.received: dict[int, list[torch.Tensor]] = {}

    def push(self, number: int, samples: Any) -> None:
        super().push(number, samples)
        self.received.setdefault(number, []).append(torch.as_tensor(samples).float() / 32768)


def is_problem(message: Any) -> bool:
    """Returns True for errors of scripts; a refused request is reported as an error of the console as well."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@contextmanager
def serving(engine: Engine, access: Access | None = None) -> Iterator[str]:
    """Runs a server in a thread; yields its address."""
    with bind("127.0.0.1", 0) as listening:
        server = Server(Hub(engine), access or Access())
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        for _ in range(2):
            server.handle_exit(signal.SIGTERM, None)
        thread.join(WAIT_MS / 1000)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium whose microphone plays noise."""
    wave = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    noise = 0.1 * torch.randn(160000, generator=torch.Generator().manual_seed(7))
    soundfile.write(wave, noise.numpy(), 16000, subtype="PCM_16")
    arguments = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={wave}",
        "--autoplay-policy=no-user-gesture-required",
    ]
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=arguments)
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {error.message.splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, recognizer: TextTask) -> Iterator[Open]:
    """Opens the page of a new server; a test fails if the page had an error."""
    problems: list[str] = []
    with ExitStack() as stack:

        def open_one(
            engine: Engine | None = None, access: Access | None = None, script: str = "", **options: Any
        ) -> Any:
            address = stack.enter_context(serving(engine or Engine(recognizer), access))
            context = browser.new_context(viewport={"width": 390, "height": 844}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: is_problem(message) and problems.append(message.text))
            if script:
                page.add_init_script(script)
            page.goto(address)
            return page

        yield open_one
    assert not problems


@pytest.fixture
def wave(tmp_path: Path, audio: Audio) -> tuple[Path, torch.Tensor]:
    """Returns a file and its samples."""
    path, samples = tmp_path / "speech.wav", audio(16001, 3)
    soundfile.write(path, samples.numpy(), 16000, subtype="PCM_16")
    return path, samples


def expect(page: Any, selector: str) -> Any:
    return playwright.expect(page.locator(selector))


def test_text_of_chosen_and_dropped_files_equals_recognition(
    open_page: Open, wave: tuple[Path, torch.Tensor], text_of: TextOf
) -> None:
    page, (path, samples) = open_page(accept_downloads=True), wave
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page, "#status").to_have_text("Finished.", timeout=WAIT_MS)
    assert page.inner_text("#lookahead") == "42.4 ms" and "times real time" in page.inner_text("#speed")
    transfer = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.wav", { type: "audio/wav" }));
            return transfer;
        }""",
        list(path.read_bytes()),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page, "article:nth-of-type(2) h3").to_have_text("dropped.wav")
    expect(page, "#status").to_have_text("Finished.", timeout=WAIT_MS)
    text = text_of(samples)
    assert page.locator("#text p").all_text_contents() == [text, text] and len(text) > 3
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.path().read_text() == f"{text}\n{text}\n"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_text_of_the_microphone_equals_recognition_of_received_audio(
    open_page: Open, recognizer: TextTask, text_of: TextOf
) -> None:
    engine = Recording(recognizer)
    page = open_page(engine, permissions=["clipboard-read", "clipboard-write"])
    start = page.get_by_role("button", name="Start microphone")
    start.focus()
    page.keyboard.press("Enter")
    expect(page, "#whole").to_contain_text("ms", timeout=WAIT_MS)
    expect(page, "#level").to_be_visible()
    expect(page, "#plot polyline.compute").to_have_attribute("points", re.compile(r"\d+.* .*\d+"))
    page.get_by_role("button", name="Stop").press("Enter")
    expect(page, "#status").to_have_text("Finished.", timeout=WAIT_MS)
    playwright.expect(start).to_be_focused()
    samples = torch.cat(engine.received[0])
    assert page.text_content("#text p") == text_of(samples) and samples.std() > 0.01
    page.get_by_role("button", name="Copy").click()
    expect(page, "#status").to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == text_of(samples)
    compute, network, total = (
        float(page.inner_text(f"#{name} td >> nth=0")) for name in ("compute", "network", "total")
    )
    assert 0 < compute <= total and 0 <= network <= total


def test_errors_of_the_microphone_are_sentences(open_page: Open) -> None:
    page = open_page(
        script="navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', window.name));"
    )
    for name, sentence in (
        ("NotAllowedError", "The browser refused the microphone."),
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "another program may be using it"),
    ):
        page.evaluate(f"window.name = '{name}'")
        page.get_by_role("button", name="Start microphone").click()
        playwright.expect(page.get_by_role("alert")).to_contain_text(sentence)
        expect(page, "#status").to_have_text("Stopped.")


def test_a_full_server_and_a_missing_token_are_reported(
    open_page: Open, recognizer: TextTask, wave: tuple[Path, torch.Tensor], text_of: TextOf
) -> None:
    engine = Engine(recognizer, Limits(streams=1))
    page, (path, samples) = open_page(engine, Access(token=TOKEN)), wave
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page, "#error").to_contain_text("token is missing or wrong")
    number = engine.open()
    page.get_by_label("Token of the server").fill(TOKEN)
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page, "#error").to_contain_text("busy with 1 streams")
    engine.close(number)
    engine.step()
    page.get_by_label("Choose a file").set_input_files(path)
    expect(page, "#text p").to_have_text(text_of(samples), timeout=WAIT_MS)


def test_a_lost_connection_is_opened_again(open_page: Open, recognizer: TextTask) -> None:
    page = open_page()
    sockets: list[Any] = []

    def route(socket: Any) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/stream", route)
    page.reload()
    page.get_by_role("button", name="Start microphone").click()
    expect(page, "#text p >> nth=0").not_to_be_empty(timeout=WAIT_MS)
    sockets[0].close(code=1011)
    expect(page, "#status").to_have_text(re.compile("Connecting again, attempt 1"), timeout=WAIT_MS)
    expect(page, "#text p >> nth=1").not_to_be_empty(timeout=WAIT_MS)
    page.get_by_role("button", name="Stop").click()
    expect(page, "#status").to_have_text("Finished.", timeout=WAIT_MS)
