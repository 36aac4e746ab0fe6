"""Plots how one real utterance flows through pretraining with the default config: `python tools/draw_dataflow.py`."""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
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
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from streamnest.config.compose import compose_config
from streamnest.encoder.context import Context
from streamnest.frontend import LogMel
from streamnest.masking import RandomBlockMasking
from streamnest.normalization import Normalizer
from streamnest.plotting import INK, MUTED, ORANGE, code_colors, plot_mel, runs, to_numpy
from streamnest.quantizer import RandomProjectionQuantizer

ROOT = Path(__file__).resolve().parents[1]
SPEECH = ROOT / "data/sample16k/speech/asterisk_en-conf-noempty.ogg"
NOISE = ROOT / "data/sample16k/noise/sp-loop_garzul_0.ogg"
OUT = ROOT / "docs/images/dataflow.png"

RATE, HOP, STACK, SECONDS, FRAME_MS = 16000, 0.01, 4, 2.6, 40
TARGETS, INPUT, LOSS, PAPER = "#1f7a8c", "#6d4aa3", "#c8553d", "#ffffff"
# Columns (left edge, width) and rows (bottom edge, height) in fractions of the figure.
WAVE, MEL, NETWORK, FRAMES = (0.025, 0.15), (0.22, 0.20), (0.475, 0.20), (0.735, 0.245)
TOP, BOTTOM = (0.60, 0.25), (0.085, 0.25)
# The strips and the loss between them are thinner than a row.
STRIP_TOP, STRIP_BOTTOM, MIDDLE = (0.665, 0.125), (0.145, 0.125), (0.395, 0.15)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="PNG file to write (docs/images/dataflow.png)")
    print(_write(draw(), parser.parse_args().out))


def draw() -> Figure:
    """Computes every panel with the modules and the default config of the project."""
    cfg = compose_config([], ROOT / "configs", "dataflow")
    clean = _read(SPEECH)
    noisy = clean + 0.2 * _read(NOISE)
    frontend = LogMel(dither=0.0).eval()
    targets, features = _features(frontend, clean), _features(frontend, noisy)
    codes = to_numpy(RandomProjectionQuantizer(stack=STACK, num_classes=cfg.quantizer.num_classes)(targets)[0, :, 0])
    mask = to_numpy(_mask(features.shape[-1], cfg))
    frame_masks = mask[: len(codes) * STACK].reshape(-1, STACK)

    figure = Figure(figsize=(15, 6.6), dpi=120, facecolor=PAPER)
    figure.suptitle("How one utterance flows through pretraining", x=0.025, ha="left", fontsize=17, weight="bold")
    _upper_lane(figure, clean, targets, codes, cfg.quantizer.num_classes)
    _lower_lane(figure, noisy, features, mask, cfg.encoder.right_context_ms)
    _frames(figure, codes, frame_masks.all(1), ~frame_masks.any(1))
    _arrows(figure)
    return figure


def _write(figure: Figure, out: Path) -> Path:
    """Writes a PNG of 256 colors, which saves two thirds of the bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, facecolor=PAPER)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    return out


def _read(path: Path) -> Tensor:
    audio, _ = soundfile.read(path, dtype="float32", frames=int(SECONDS * RATE))
    return torch.from_numpy(audio)[None]


def _features(frontend: LogMel, audio: Tensor) -> Tensor:
    features, lengths = frontend(audio, torch.tensor([audio.shape[1]]))
    return Normalizer("utterance")(features, lengths)


def _mask(frames: int, cfg: DictConfig) -> Tensor:
    given = {name: cfg.masking[name] for name in ("mask_prob", "block_size", "allow_overlap")}
    masking = RandomBlockMasking(80, causal=True, **given)
    return masking.sample(torch.tensor([frames]), frames, keys=torch.tensor([3]))[0]


def _upper_lane(figure: Figure, audio: Tensor, mel: Tensor, codes: Any, classes: int) -> None:
    _wave(_panel(figure, WAVE, TOP, TARGETS, "Speech", "16 kHz"), audio, TARGETS)
    plot_mel(_panel(figure, MEL, TOP, TARGETS, "Log-mel", "80 bands, every 10 ms"), to_numpy(mel[0]), None, HOP)
    _clear(figure.axes[-1])
    box = _panel(figure, NETWORK, TOP, TARGETS, "Random-projection quantizer", "not trained; not part of the stream")
    _projection(box, codes, classes)


def _lower_lane(figure: Figure, audio: Tensor, mel: Tensor, mask: Any, lookahead_ms: float) -> None:
    _wave(_panel(figure, WAVE, BOTTOM, INPUT, "Augmented speech", "noise or a second talker added"), audio, INPUT)
    axes = _panel(figure, MEL, BOTTOM, INPUT, "Normalized, spans masked", "causal normalization and masks")
    plot_mel(axes, to_numpy(mel[0]), mask, HOP)
    _clear(axes)
    caption = f"{lookahead_ms:g} ms of look-ahead, verified before training"
    _visibility(_panel(figure, NETWORK, BOTTOM, INPUT, "Streaming FastConformer", caption), lookahead_ms)


def _wave(axes: Axes, audio: Tensor, color: str) -> None:
    peaks = audio[0][: audio.shape[1] // 200 * 200].view(-1, 200).abs().amax(1).numpy()
    time = np.arange(len(peaks))
    axes.fill_between(time, -peaks, peaks, color=color, alpha=0.9, lw=0)
    axes.set_ylim(-1.1 * peaks.max(), 1.1 * peaks.max())
    axes.set_xlim(0, len(peaks))


def _projection(axes: Axes, codes: Any, classes: int) -> None:
    """Draws four feature frames, random code vectors, and the nearest one."""
    generator = np.random.default_rng(4)
    points = generator.uniform(-1, 1, size=(130, 2))
    points = points[np.linalg.norm(points, axis=1) < 1] * (1.25, 0.95) + (2.45, 0.2)
    colors = code_colors(generator.integers(0, classes, len(points)))
    axes.scatter(points[:, 0], points[:, 1], s=16, c=colors, alpha=0.85, lw=0)
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
    axes.text(2.4, -1.42, f"nearest of {classes} codes", ha="center", fontsize=9, color=MUTED)
    axes.set(xlim=(-0.4, 3.9), ylim=(-1.6, 1.4))


def _visibility(axes: Axes, lookahead_ms: float) -> None:
    """Shows the frames that each output frame attends to: all of the past, its own chunk, nothing later."""
    right, time = round(lookahead_ms / FRAME_MS), torch.arange(16)
    past = Context(left=None, right=right).visible(time, time)
    own = Context(left=0, right=right).visible(time, time)
    colors = ListedColormap(["#f1edf7", "#b9a3d9", INPUT])
    axes.imshow(to_numpy(past.long() + own.long()), cmap=colors, extent=(0, 24, 24, 0), interpolation="none")
    axes.set_anchor("W")
    axes.set(xlim=(0, 57), ylim=(24, 0))
    labels = (
        (4, INPUT, "own chunk:\nthe only look-ahead"),
        (12, "#8f72bf", "unlimited past"),
        (18, MUTED, "future: never visible"),
    )
    for height, color, text in labels:
        axes.text(26, height, text, color=color, fontsize=9.5, va="center", weight="bold")
    axes.set_aspect("auto")


def _frames(figure: Figure, codes: Any, masked: Any, unmasked: Any) -> None:
    targets = _panel(figure, FRAMES, STRIP_TOP, TARGETS, f"Targets: a code every {FRAME_MS} ms", "")
    # Partly masked frames have no target, so their codes are pale.
    known = (masked | unmasked)[:, None]
    shown = np.where(known, code_colors(codes), 0.2 * code_colors(codes) + 0.8)
    targets.imshow(shown[None], aspect="auto", interpolation="none", extent=(0, len(codes), 0, 1))
    predictions = _panel(figure, FRAMES, STRIP_BOTTOM, INPUT, "", "predictions for masked and unmasked frames")
    predictions.set(xlim=(0, len(codes)), ylim=(0, 1))
    for kind, color in ((masked, ORANGE), (unmasked, "#cfe8e4")):
        for start, end in runs(kind):
            predictions.axvspan(start, end, lw=0, color=color)
    for name, kind in (("masked", masked), ("unmasked", unmasked)):
        start, end = max(runs(kind), key=lambda span: span[1] - span[0])
        predictions.text((start + end) / 2, 0.5, name, ha="center", va="center", fontsize=9, color=INK, rotation=90)
    _loss(figure)


def _loss(figure: Figure) -> None:
    axes = _panel(figure, (FRAMES[0] + 0.035, FRAMES[1] - 0.07), MIDDLE, LOSS, "", "")
    axes.set_facecolor(LOSS)
    axes.text(0.5, 0.66, "Cross entropy", ha="center", va="center", fontsize=14, color="white", weight="bold")
    axes.text(0.5, 0.28, "mean over masked frames\n+ mean over unmasked frames", ha="center", va="center", fontsize=9.5)
    axes.texts[-1].set_color("white")


def _panel(
    figure: Figure, column: tuple[float, float], row: tuple[float, float], color: str, title: str, caption: str
) -> Axes:
    axes = figure.add_axes((column[0], row[0], column[1], row[1]))
    _clear(axes)
    for spine in axes.spines.values():
        spine.set(color=color, linewidth=2)
    center = column[0] + column[1] / 2
    figure.text(center, row[0] + row[1] + 0.018, title, ha="center", fontsize=13, color=color, weight="bold")
    figure.text(center, row[0] - 0.022, caption, ha="center", va="top", fontsize=10, color=MUTED)
    return axes


def _clear(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")


def _arrows(figure: Figure) -> None:
    for (_, height), (bottom, _), color in ((TOP, TOP, TARGETS), (BOTTOM, BOTTOM, INPUT)):
        for left, right in ((WAVE, MEL), (MEL, NETWORK), (NETWORK, FRAMES)):
            level = bottom + height / 2
            _arrow(figure, (left[0] + left[1] + 0.006, level), (right[0] - 0.006, level), color)
    center = FRAMES[0] + FRAMES[1] / 2
    _arrow(figure, (center, STRIP_TOP[0] - 0.012), (center, MIDDLE[0] + MIDDLE[1] + 0.012), TARGETS)
    _arrow(figure, (center, STRIP_BOTTOM[0] + STRIP_BOTTOM[1] + 0.012), (center, MIDDLE[0] - 0.012), INPUT)
    start = WAVE[0] + WAVE[1] / 2
    _arrow(figure, (start, TOP[0] - 0.075), (start, BOTTOM[0] + BOTTOM[1] + 0.075), MUTED)


def _arrow(figure: Figure, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 20,
        "lw": 2.2,
        "color": color,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **style))


if __name__ == "__main__":
    main()
