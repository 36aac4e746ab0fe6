"""The page in a headless Chromium with a fake microphone; skipped unless playwright and a Chromium are installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

for package in ("uvicorn", "starlette", "websockets"):
    pytest.importorskip(package)
playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
from live_server import next_message, running  # noqa: E402

from streamnest.checkpoint.loading import load_model  # noqa: E402
from streamnest.downstream.asr.recognition import TextTask  # noqa: E402
from streamnest.serving.access import Access  # noqa: E402
from streamnest.serving.engine import Engine  # noqa: E402
from streamnest.serving.limits import Limits  # noqa: E402

Audio = Callable[..., torch.Tensor]
TextOf = Callable[[torch.Tensor], str]
Wave = tuple[Path, torch.Tensor]
Open = Callable[..., Any]
WAIT_MS = 60_000
TOKEN = "0123456789abcdef"
# A browser that records at the rate of the device only.
REFUSED_RATE = """
const source = AudioContext.prototype.createMediaStreamSource;
AudioContext.prototype.createMediaStreamSource = function (media) {
    if (this.sampleRate === 16000) throw new DOMException("", "NotSupportedError");
    return source.call(this, media);
};
"""
RECORDED_STATUS = """
window.statuses = [];
addEventListener("DOMContentLoaded", () => {
    const status = document.getElementById("status");
    new MutationObserver(() => statuses.push(status.textContent)).observe(status, { childList: true });
});
"""
STORED = Path(__file__).parents[1] / "fixtures/stored"


playwright.expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser(chromium: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium whose microphone plays noise."""
    wave = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    noise = 0.1 * torch.randn(160000, generator=torch.Generator().manual_seed(7))
    soundfile.write(wave, noise.numpy(), 16000, subtype="PCM_16")
    with chromium(
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={wave}",
        "--autoplay-policy=no-user-gesture-required",
    ) as started:
        yield started


@pytest.fixture
def open_page(browser: Any, recognizer: TextTask) -> Iterator[Open]:
    """Returns a function that opens the page of a new server; a script that fails in the page fails the test."""
    problems: list[str] = []
    with ExitStack() as stack:

        def open_one(model: Any = None, access: Access | None = None, script: str = "", **options: Any) -> Any:
            server = stack.enter_context(running(model or recognizer, Limits(streams=1, load=100.0), access))
            context = browser.new_context(viewport={"width": 390, "height": 844}, **options)
            stack.callback(context.close)
            page = context.new_page()
            page.running = server
            page.set_default_timeout(WAIT_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: _is_problem(message) and problems.append(message.text))
            page.add_init_script(script or "0")
            page.goto(f"http://{server.address}/")
            return page

        yield open_one
    assert not problems


def _is_problem(message: Any) -> bool:
    # The browser also reports a response of status 401 as an error.
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@pytest.fixture
def wave(tmp_path: Path, audio: Audio) -> Wave:
    """Returns a file and its samples."""
    path, samples = tmp_path / "speech.wav", audio(16001, 3)
    soundfile.write(path, samples.numpy(), 16000, subtype="PCM_16")
    return path, samples


def shown(page: Any, selector: str) -> Any:
    """Returns assertions on an element, which wait."""
    return playwright.expect(page.locator(selector))


def choose(page: Any, path: Path) -> None:
    page.get_by_label("Choose a file").set_input_files(path)


def finish(page: Any) -> None:
    shown(page, "#status").to_have_text("Finished.")


def received(page: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Returns a list to which the server of a page adds the samples that it receives."""
    engine: Engine = page.running.server.hub.engine
    pieces, push = list[torch.Tensor](), engine.push

    def record(number: int, samples: Any) -> None:
        push(number, samples)
        pieces.append(torch.from_numpy(samples.copy()).float() / 32768)

    monkeypatch.setattr(engine, "push", record)
    return pieces


def test_text_of_chosen_and_dropped_files_equals_recognition(open_page: Open, wave: Wave, text_of: TextOf) -> None:
    page, (path, samples) = open_page(), wave
    shown(page, "#lookahead").to_have_text("42.4 ms")
    choose(page, path)
    finish(page)
    transfer = page.evaluate_handle(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.wav", { type: "audio/wav" }));
            return transfer;
        }""",
        list(path.read_bytes()),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    shown(page, "article:nth-of-type(2) h3").to_have_text("dropped.wav")
    finish(page)
    text = text_of(samples)
    assert page.locator("#text p").all_text_contents() == [text, text] and len(text) > 3
    assert float(page.inner_text("#speed")) > 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.path().read_text() == f"{text}\n{text}\n"
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("script", ["", REFUSED_RATE], ids=["native", "resampled"])
def test_text_of_the_microphone_equals_recognition_of_received_audio(
    open_page: Open, text_of: TextOf, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    page = open_page(script=script, permissions=["clipboard-read", "clipboard-write"])
    pieces = received(page, monkeypatch)
    start = page.get_by_role("button", name="Start microphone")
    start.press("Enter")
    shown(page, "#whole").to_contain_text("ms")
    shown(page, "#level").to_be_visible()
    shown(page, "#plot polyline.compute").to_have_attribute("points", re.compile(r"\d,\d.* \d"))
    page.get_by_role("button", name="Stop").press("Enter")
    finish(page)
    playwright.expect(start).to_be_focused()
    samples = torch.cat(pieces)
    assert page.text_content("#text p") == text_of(samples) and samples.std() > 0.01
    page.get_by_role("button", name="Copy").click()
    shown(page, "#status").to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == text_of(samples)
    assert 0 < float(page.inner_text("#compute td >> nth=0")) <= float(page.inner_text("#total td >> nth=0"))


def test_errors_are_sentences(open_page: Open, wave: Wave, text_of: TextOf) -> None:
    script = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', window.name));"
    page, (path, samples) = open_page(None, Access(token=TOKEN), script), wave
    alert = playwright.expect(page.get_by_role("alert"))
    for name, sentence in (
        ("NotAllowedError", "The browser refused the microphone."),
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "another program may be using it"),
    ):
        page.evaluate(f"window.name = '{name}'")
        page.get_by_role("button", name="Start microphone").click()
        alert.to_contain_text(sentence)
        shown(page, "#status").to_have_text("Stopped.")
    broken = path.with_name("broken.wav")
    broken.write_text("no audio")
    choose(page, broken)
    alert.to_contain_text("cannot decode this file")
    choose(page, path)
    alert.to_contain_text("token is missing or wrong")
    page.get_by_label("Token of the server").fill(TOKEN)
    with page.running.open(token=TOKEN) as other:
        assert next_message(other)["type"] == "ready"
        choose(page, path)
        alert.to_contain_text("busy with 1 streams")
        other.send('{"end": true}')
        assert next_message(other)["type"] == "final"
    choose(page, path)
    shown(page, "#text p").to_have_text(text_of(samples))


def test_a_lost_connection_is_resumed_without_loss_of_audio(
    open_page: Open, text_of: TextOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, sockets = open_page(script=RECORDED_STATUS), list[Any]()
    pieces = received(page, monkeypatch)

    def route(socket: Any) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/stream", route)
    page.reload()
    page.get_by_role("button", name="Start microphone").click()
    shown(page, "#text p").not_to_be_empty()
    sockets[0].close(code=1011)
    for _ in range(WAIT_MS // 50):
        if len(sockets) == 2:
            break
        page.wait_for_timeout(50)
    assert len(sockets) == 2
    shown(page, "#status").to_have_text("Recording. Speak.")
    assert "The connection was lost. Connecting again, attempt 1 of 5." in page.evaluate("window.statuses")
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Stop").click()
    finish(page)
    assert len(sockets) == 2 and page.locator("#text p").count() == 1
    assert page.text_content("#text p") == text_of(torch.cat(pieces))


@pytest.mark.parametrize(
    ("stored", "heading", "pattern"),
    [
        ("diarization.ckpt", "Speaker turns", r"0\.\d\d–\d\.\d\d s +speaker \d\n"),
        ("pretraining.ckpt", "Codes", r"\d+(/\d+)*(×\d+)? \d+"),
    ],
)
def test_turns_and_codes_are_shown_with_a_spectrogram(
    open_page: Open, wave: Wave, stored: str, heading: str, pattern: str
) -> None:
    page = open_page(load_model(STORED / stored))
    choose(page, wave[0])
    finish(page)
    shown(page, "#output-title").to_have_text(heading)
    assert re.match(pattern, page.text_content("#text p")), page.text_content("#text p")
    shown(page, "#timeline").to_be_visible()
    pixels = "[...document.getElementById('timeline').getContext('2d').getImageData(0, 0, 300, 130).data]"
    page.wait_for_function(f"new Set({pixels}).size > 10")  # it is drawn with the next frame of the screen


def test_a_context_of_a_dynamic_checkpoint_can_be_chosen(open_page: Open, wave: Wave) -> None:
    page = open_page(load_model(STORED / "dynamic.ckpt"))
    choices = page.get_by_label("Latency context")
    shown(page, "#context option").not_to_have_count(0)
    names = choices.locator("option").all_text_contents()
    figures = set()
    for name in names:
        choices.select_option(name)
        figures.add(page.inner_text("#algorithmic"))
    choose(page, wave[0])
    finish(page)
    shown(page, "#model").to_have_text(f"context {names[-1]}")
    assert len(figures) > 1
