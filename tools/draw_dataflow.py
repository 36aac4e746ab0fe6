"""Draws docs/images/dataflow.png: the way of one real utterance through pretraining."""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image
from torch import Tensor

from streamnest.encoder.context import Context
from streamnest.frontend import LogMel
from streamnest.masking import RandomBlockMasking
from streamnest.normalization import Normalizer
from streamnest.plotting import HIDDEN, INK, MUTED, code_colours, draw_mel, runs, to_numpy
from streamnest.quantizer import RandomProjectionQuantizer

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "data/sample16k/speech/asterisk_en-conf-noempty.ogg"
NOISE = ROOT / "data/sample16k/noise/sp-loop_garzul_0.ogg"
OUT = ROOT / "docs/images/dataflow.png"

RATE, HOP, STACK, SECONDS, CODES = 16000, 0.01, 4, 2.6, 1024
TARGETS, INPUT, LOSS, PAPER = "#1f7a8c", "#6d4aa3", "#c8553d", "#ffffff"
# Columns and rows of the picture, in shares of it: left edge and width, bottom edge and height.
WAVE, MEL, NETWORK, FRAMES = (0.025, 0.15), (0.22, 0.20), (0.475, 0.20), (0.735, 0.245)
TOP, BOTTOM = (0.645, 0.27), (0.085, 0.27)
# Strips and the loss between them are thinner than a row.
STRIP_TOP, STRIP_BOTTOM, MIDDLE = (0.73, 0.10), (0.17, 0.10), (0.425, 0.15)


def main() -> None:
    """Computes every panel with the parts of the project and writes the picture."""
    clean = _read(SPEECH)
    noisy = clean + 0.2 * _read(NOISE)
    frontend = LogMel(dither=0.0).eval()
    targets, heard = _features(frontend, clean), _features(frontend, noisy)
    codes = to_numpy(RandomProjectionQuantizer(stack=STACK, num_classes=CODES)(targets)[0, :, 0])
    mask = to_numpy(_mask(heard.shape[-1]))

    figure = Figure(figsize=(15, 6.2), dpi=120, facecolor=PAPER)
    _upper_lane(figure, clean, targets, codes)
    _lower_lane(figure, noisy, heard, mask)
    _frames(figure, codes, mask[: len(codes) * STACK].reshape(-1, STACK).all(1))
    _arrows(figure)
    _write(figure)


def _write(figure: Figure) -> None:
    """256 colours are enough, and a third of the bytes."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor=PAPER)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)


def _read(path: Path) -> Tensor:
    audio, _ = soundfile.read(path, dtype="float32", frames=int(SECONDS * RATE))
    return torch.from_numpy(audio)[None]


def _features(frontend: LogMel, audio: Tensor) -> Tensor:
    features, lengths = frontend(audio, torch.tensor([audio.shape[1]]))
    return Normalizer("utterance")(features, lengths)


def _mask(frames: int) -> Tensor:
    masking = RandomBlockMasking(80, mask_prob=0.01, block_size=40, allow_overlap=True, causal=True)
    return masking.sample(torch.tensor([frames]), frames, keys=torch.tensor([3]))[0]


def _upper_lane(figure: Figure, audio: Tensor, mel: Tensor, codes: Any) -> None:
    _wave(_panel(figure, WAVE, TOP, TARGETS, "speech", "16 kHz"), audio, TARGETS)
    draw_mel(_panel(figure, MEL, TOP, TARGETS, "log-mel", "80 bands, every 10 ms"), to_numpy(mel[0]), None, HOP)
    _clear(figure.axes[-1])
    box = _panel(figure, NETWORK, TOP, TARGETS, "random-projection quantizer", "never trained; may see the future")
    _projection(box, codes)


def _lower_lane(figure: Figure, audio: Tensor, mel: Tensor, mask: Any) -> None:
    _wave(_panel(figure, WAVE, BOTTOM, INPUT, "+ noise or another voice", "what the encoder gets"), audio, INPUT)
    axes = _panel(figure, MEL, BOTTOM, INPUT, "normalised, blocks hidden", "causal statistics and masks")
    draw_mel(axes, to_numpy(mel[0]), mask, HOP)
    _clear(axes)
    box = _panel(figure, NETWORK, BOTTOM, INPUT, "causal FastConformer", "look-ahead computed from the layers")
    _visibility(box)


def _wave(axes: Axes, audio: Tensor, colour: str) -> None:
    peaks = audio[0][: audio.shape[1] // 200 * 200].view(-1, 200).abs().amax(1).numpy()
    time = np.arange(len(peaks))
    axes.fill_between(time, -peaks, peaks, color=colour, alpha=0.9, lw=0)
    axes.set_ylim(-1.1 * peaks.max(), 1.1 * peaks.max())
    axes.set_xlim(0, len(peaks))


def _projection(axes: Axes, codes: Any) -> None:
    """Four frames, a cloud of codes, the nearest one marked."""
    generator = np.random.default_rng(4)
    points = generator.uniform(-1, 1, size=(130, 2))
    points = points[np.linalg.norm(points, axis=1) < 1] * (1.25, 0.95) + (2.45, 0.2)
    colours = code_colours(generator.integers(0, CODES, len(points)))
    axes.scatter(points[:, 0], points[:, 1], s=16, c=colours, alpha=0.85, lw=0)
    place = (2.2, 0.12)
    nearest = points[np.argmin(((points - np.array(place)) ** 2).sum(1))]
    axes.scatter(nearest[0], nearest[1], s=130, facecolors="none", edgecolors=INK, lw=1.6, zorder=3)
    axes.plot(*place, marker="x", color=INK, ms=7, mew=2)
    axes.annotate(
        "", (place[0] - 0.1, place[1]), (0.35, place[1]), arrowprops={"arrowstyle": "-|>", "color": MUTED, "lw": 1.5}
    )
    for frame in range(STACK):
        axes.add_patch(FancyBboxPatch((-0.1 + 0.1 * frame, -0.45), 0.05, 1.1, boxstyle="square,pad=0", color=TARGETS))
    axes.text(0.08, -0.62, "4 frames", ha="center", va="top", fontsize=9, color=MUTED)
    axes.text(2.4, -1.42, f"nearest of {CODES} codes", ha="center", fontsize=9, color=MUTED)
    axes.set(xlim=(-0.4, 3.9), ylim=(-1.6, 1.4))


def _visibility(axes: Axes) -> None:
    """Which frames a frame attends to: three chunks of the past and the whole of its own."""
    time = torch.arange(24)
    visible = Context(left=9, right=2).visible(time, time)
    own = Context(left=0, right=2).visible(time, time)
    colours = ListedColormap(["#f1edf7", "#b9a3d9", INPUT])
    axes.imshow(to_numpy(visible.long() + own.long()), cmap=colours, extent=(0, 24, 24, 0), interpolation="none")
    axes.set_anchor("W")
    axes.set(xlim=(0, 57), ylim=(24, 0))
    labels = (
        (4, INPUT, "its own chunk:\nthe only look-ahead"),
        (12, "#8f72bf", "limited past"),
        (18, MUTED, "never seen"),
    )
    for height, colour, words in labels:
        axes.text(27, height, words, color=colour, fontsize=9.5, va="center", weight="bold")
    axes.set_aspect("auto")


def _frames(figure: Figure, codes: Any, hidden: Any) -> None:
    targets = _panel(figure, FRAMES, STRIP_TOP, TARGETS, "targets: a code every 40 ms", "")
    # Codes that nobody asks for are pale.
    shown = np.where(hidden[:, None], code_colours(codes), 0.2 * code_colours(codes) + 0.8)
    targets.imshow(shown[None], aspect="auto", interpolation="none", extent=(0, len(codes), 0, 1))
    answers = _panel(figure, FRAMES, STRIP_BOTTOM, INPUT, "", "heads: predictions of the hidden frames only")
    answers.set(xlim=(0, len(codes)), ylim=(0, 1))
    for start, end in runs(hidden):
        answers.axvspan(start, end, color=HIDDEN, lw=0)
        for frame in range(start, end, 2):
            answers.text(frame + 0.5, 0.46, "?", ha="center", va="center", fontsize=8, color=INK, weight="bold")
    _loss(figure)


def _loss(figure: Figure) -> None:
    axes = _panel(figure, (FRAMES[0] + 0.035, FRAMES[1] - 0.07), MIDDLE, LOSS, "", "")
    axes.set_facecolor(LOSS)
    axes.text(0.5, 0.62, "cross entropy", ha="center", va="center", fontsize=14, color="white", weight="bold")
    axes.text(0.5, 0.26, "on hidden frames", ha="center", va="center", fontsize=10.5, color="white")


def _panel(
    figure: Figure, column: tuple[float, float], row: tuple[float, float], colour: str, title: str, caption: str
) -> Axes:
    axes = figure.add_axes((column[0], row[0], column[1], row[1]))
    _clear(axes)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)
    centre = column[0] + column[1] / 2
    figure.text(centre, row[0] + row[1] + 0.018, title, ha="center", fontsize=13, color=colour, weight="bold")
    figure.text(centre, row[0] - 0.022, caption, ha="center", va="top", fontsize=10, color=MUTED)
    return axes


def _clear(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")


def _arrows(figure: Figure) -> None:
    for (_, height), (bottom, _), colour in ((TOP, TOP, TARGETS), (BOTTOM, BOTTOM, INPUT)):
        for left, right in ((WAVE, MEL), (MEL, NETWORK), (NETWORK, FRAMES)):
            level = bottom + height / 2
            _arrow(figure, (left[0] + left[1] + 0.006, level), (right[0] - 0.006, level), colour)
    centre = FRAMES[0] + FRAMES[1] / 2
    _arrow(figure, (centre, STRIP_TOP[0] - 0.012), (centre, MIDDLE[0] + MIDDLE[1] + 0.012), TARGETS)
    _arrow(figure, (centre, STRIP_BOTTOM[0] + STRIP_BOTTOM[1] + 0.012), (centre, MIDDLE[0] - 0.012), INPUT)
    start = WAVE[0] + WAVE[1] / 2
    _arrow(figure, (start, TOP[0] - 0.075), (start, BOTTOM[0] + BOTTOM[1] + 0.075), MUTED)


def _arrow(figure: Figure, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 20,
        "lw": 2.2,
        "color": colour,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **style))


if __name__ == "__main__":
    main()
