"""Codes of a teacher: alignment, independence of the batch, layers, fitting, and refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import load_model, write_checkpoint
from streamnest.checkpoint.target_teacher import attach_teacher, load_target_teacher, with_teacher
from streamnest.checkpoint.transfer import transfer
from streamnest.data.batch import Batch
from streamnest.encoder.context import Context
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.probing.layer_outputs import layer_frames
from streamnest.targets import Teacher, TeacherQuantizer
from streamnest.targets.kmeans import kmeans, nearest

Compose = Callable[..., DictConfig]
Audio = Callable[..., torch.Tensor]
MakeTeacher = Callable[..., Path]


def student(run_config: Compose, path: Path, *overrides: str) -> Pretraining:
    """Returns a student with fitted codes of a teacher."""
    small = ("quantizer.layer=2", "quantizer.num_classes=16", "quantizer.cache=null")
    cfg, teacher = with_teacher(run_config("quantizer=teacher", f"quantizer.checkpoint={path}", *small, *overrides))
    assert teacher
    model = ready(cfg)
    attach_teacher(model, teacher)
    generator = torch.Generator().manual_seed(0)
    model.quantizer.fit(torch.randn(400, len(teacher.layers), teacher.width, generator=generator))  # type: ignore[operator]
    return model


def loaded(path: Path, *layers: int) -> Teacher:
    return load_target_teacher(str(path), layers or (2,))


@pytest.mark.parametrize("padding", ["aligned", "shifted"])
@pytest.mark.parametrize(("own", "wanted"), [(4, 4), (4, 8), (8, 4)])
def test_frames_of_teacher_and_student_cover_the_same_audio(
    teacher_file: MakeTeacher, speech_like: Audio, own: int, wanted: int, padding: str
) -> None:
    settings = (f"encoder.subsampling_factor={own}", f"encoder.subsampling_padding={padding}")
    teacher = loaded(teacher_file("encoder=causal", *settings))
    stride, step = wanted * 160, 1280 * 12
    audio, length = speech_like(1, 32000), torch.tensor([32000])
    later = audio.clone()
    # The window of the feature frame before the step, and the next one, which shifted subsampling sees, end before it.
    later[:, step + 320 :] += 0.5
    frames, changed = (teacher.frames(x, length, stride) for x in (audio, later))
    assert frames.shape == (1, 32000 // stride, 1, 32)
    difference = (frames - changed).abs().amax((0, 2, 3))
    assert (difference[: step // stride] == 0).all() and difference[step // stride] > 1e-3


@pytest.mark.parametrize(("own", "wanted"), [(4, 4), (4, 8), (8, 4)])
def test_codes_and_encoder_outputs_change_at_the_same_frame(
    run_config: Compose, teacher_file: MakeTeacher, speech_like: Audio, own: int, wanted: int
) -> None:
    path = teacher_file("encoder=causal", f"encoder.subsampling_factor={own}")
    words = ("encoder=causal", f"encoder.subsampling_factor={wanted}", "quantizer.num_codebooks=8")
    model, step, first = student(run_config, path, *words), 1280 * 12, 1280 * 12 // (wanted * 160)
    audio, length, keys = speech_like(1, 32000), torch.tensor([32000]), torch.tensor([1])
    later = audio.clone()
    later[:, step + 320 :] *= 100.0  # as above
    quantizer = model.quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    quantizer.fitted.fill_(False)
    quantizer.fit(torch.cat([quantizer.frames(x, length)[0] for x in (audio, later)]))
    codes, outputs = [], []
    for clean in (audio, later):
        # The codes belong to the clean audio, whatever the encoder gets.
        batch = Batch(clean, torch.randn(1, 32000), length, keys, 0, ["one"], 2.0)
        codes.append(model.prepare_batch(batch, 0)[1])
        assert torch.equal(codes[-1], model.prepare_batch(replace(batch, noisy=clean), 0)[1])
        outputs.append(model(clean, length)[0])
    assert codes[0].shape[:2] == outputs[0].shape[:2]
    for one, other in (codes, outputs):
        differs = (one != other).any(-1)[0]
        assert not differs[:first].any() and differs[first]


def test_a_coarser_student_gets_means_and_a_finer_one_repetitions(
    teacher_file: MakeTeacher, speech_like: Audio
) -> None:
    teacher, audio = loaded(teacher_file()), speech_like(1, 16000 + 640)
    length = torch.tensor([16000 + 640])
    frames = teacher.frames(audio, length, 640)
    assert frames.shape[1] == 26
    torch.testing.assert_close(teacher.frames(audio, length, 1280), frames.unflatten(1, (13, 2)).mean(2))
    finer = teacher.frames(audio, length, 320)
    torch.testing.assert_close(finer, frames.repeat_interleave(2, 1))


@pytest.mark.parametrize("padding", ["aligned", "shifted"])
def test_an_incomplete_last_frame_of_the_teacher_is_used(
    teacher_file: MakeTeacher, speech_like: Audio, padding: str
) -> None:
    words = ("encoder=causal", "encoder.subsampling_factor=8", f"encoder.subsampling_padding={padding}")
    teacher, audio = loaded(teacher_file(*words)), speech_like(1, 640 * 30)
    lengths = torch.tensor([640 * 25])
    frames = teacher.frames(audio[:, : 640 * 25], lengths, 640)
    assert frames.shape[1] == 25 and frames[0, 24].abs().max() > 0.01
    torch.testing.assert_close(teacher.frames(audio, lengths, 640)[:, :25], frames)


def test_the_frames_are_those_that_probes_read(teacher_file: MakeTeacher, speech_like: Audio) -> None:
    path, audio = teacher_file(), speech_like(1, 20000)
    frames = loaded(path, 0, 1, 2).frames(audio, torch.tensor([20000]), 640)
    for number, expected in enumerate(layer_frames(load_model(path), audio[0])[1:]):
        torch.testing.assert_close(frames[0, :, number], expected)
        alone = loaded(path, number)
        assert len(alone.encoder.layers) == max(1, number)
        torch.testing.assert_close(alone.frames(audio, torch.tensor([20000]), 640)[0, :, 0], expected)


def test_codes_do_not_depend_on_the_batch(run_config: Compose, teacher_file: MakeTeacher, speech_like: Audio) -> None:
    quantizer = student(run_config, teacher_file()).quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    audio, lengths = speech_like(3, 20000), torch.tensor([20000, 9000, 160])
    together = quantizer.codes(audio, lengths)
    assert together.shape == (3, 31, 1) and not together[1, 14:].any() and not together[2].any()
    for row, length in enumerate(lengths.tolist()):
        alone = quantizer.codes(audio[row : row + 1, :length], lengths[row : row + 1])
        assert torch.equal(alone[0], together[row, : alone.shape[1]])


def test_training_mode_and_autocast_do_not_change_codes(
    run_config: Compose, teacher_file: MakeTeacher, speech_like: Audio
) -> None:
    model, audio, length = student(run_config, teacher_file()), speech_like(1, 20000), torch.tensor([20000])
    quantizer = model.quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    frames, codes = quantizer.frames(audio, length), quantizer.codes(audio, length)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.frames(audio, length), frames)
        assert torch.equal(quantizer.codes(audio, length), codes)


def test_the_teacher_is_no_part_of_the_student(run_config: Compose, teacher_file: MakeTeacher) -> None:
    model = student(run_config, teacher_file(), "quantizer.code_dim=4", "quantizer.layer=[1,2]",
                    "quantizer.num_codebooks=4")  # fmt: skip
    quantizer, teacher = model.quantizer, model.quantizer.teacher  # type: ignore[union-attr]
    names = {"mean", "scale", "directions", "centers", "fitted", "fingerprint"}
    assert set(quantizer.state_dict()) == names and not list(quantizer.parameters())
    inside = {id(module) for module in model.modules()}
    assert id(teacher.encoder) not in inside and not any(p.requires_grad for p in teacher.encoder.parameters())
    assert copy.deepcopy(model).quantizer.teacher is teacher  # type: ignore[union-attr]


def test_a_cache_never_serves_another_teacher_or_frame_rate(
    run_config: Compose, teacher_file: MakeTeacher, speech_like: Audio, tmp_path: Path
) -> None:
    quantizer = student(run_config, teacher_file(), f"quantizer.cache={tmp_path}/c").quantizer
    assert isinstance(quantizer, TeacherQuantizer)
    other = load_model(teacher_file())
    other.input_norm.mean += 1.0
    changed = Teacher(other.frontend, other.input_norm, other.encoder, (2,))
    audio, length = speech_like(1, 20000), torch.tensor([20000])
    for teacher, stride in ((quantizer.teacher, 640), (changed, 640), (changed, 1280)):
        quantizer.attach(teacher, 16000, stride)
        quantizer.open_cache()
        for hits in (0, 1):
            codes = quantizer.codes(audio, length, [b"same"])
            assert quantizer.cache and quantizer.cache.hits == hits
            assert torch.equal(codes, quantizer.codes(audio, length))
        quantizer.cache.flush()


def test_each_codebook_belongs_to_its_layer_and_seed(run_config: Compose, teacher_file: MakeTeacher) -> None:
    words = ("quantizer.layer=[1,2]", "quantizer.num_codebooks=4")
    quantizer = student(run_config, teacher_file(), *words).quantizer
    frames = torch.randn(50, 2, 32)
    codes, changed = quantizer.quantize(frames), frames.clone()  # type: ignore[operator]
    changed[:, 1] += 3.0
    differs = (quantizer.quantize(changed) != codes).any(0)  # type: ignore[operator]
    assert differs.tolist() == [False, True, False, True]
    assert not torch.equal(quantizer.centers[0], quantizer.centers[2])


def test_centers_are_means_of_their_rows_and_find_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.arange(1000) % 20
    points = 4 * torch.randn(20, 6, generator=generator)[group] + 0.1 * torch.randn(1000, 6, generator=generator)
    centers = kmeans(points, 20, seed=1)
    index = nearest(points, centers)
    for number, center in enumerate(centers):
        torch.testing.assert_close(points[index == number].mean(0), center)
    assert len(torch.unique(torch.stack([index, group]), dim=1)[0]) == 20
    torch.testing.assert_close(index, (points[:, None] - centers).norm(dim=-1).argmin(-1))
    assert torch.isfinite(kmeans(torch.ones(30, 2), 5, seed=0)).all()
    # Centers that no row is nearest to move to other rows.
    monkeypatch.setattr("streamnest.targets.kmeans._spread_rows", lambda x, count, _: x[:1].repeat(count, 1))
    assert len(nearest(points, kmeans(points, 20, seed=1)).unique()) == 20


def test_the_fingerprint_changes_with_weights_front_end_context_and_layer(teacher_file: MakeTeacher) -> None:
    path = teacher_file()
    prints = [loaded(path).fingerprint()]
    assert loaded(path).fingerprint() == prints[0]
    teacher = loaded(path)
    frontend, norm, encoder = teacher.frontend, teacher.norm, teacher.encoder
    for change in (
        lambda: setattr(frontend, "preemphasis", 0.9),
        lambda: setattr(frontend, "kind", "sherpa"),
        lambda: setattr(norm, "prior_frames", 50),
        lambda: norm.mean.add_(0.1),
        lambda: next(encoder.layers[0].parameters()).data.add_(1),
        lambda: setattr(encoder, "context", Context(4, 2, "buffered", 2)),
        lambda: setattr(encoder, "context", Context(4, 2, "buffered", 4)),
    ):
        change()
        prints.append(teacher.fingerprint())
    prints += [loaded(path, *layers).fingerprint() for layers in ((0,), (1,), (0, 2), (1, 2))]
    dynamic = teacher_file("encoder=dynamic", name="dynamic.ckpt")
    prints += [load_target_teacher(str(dynamic), (2,), context).fingerprint() for context in (None, "full")]
    assert len(set(prints)) == len(prints)


def test_what_cannot_be_a_teacher_is_refused(run_config: Compose, teacher_file: MakeTeacher, tmp_path: Path) -> None:
    path = teacher_file()
    with pytest.raises(UserError, match=r"quantizer\.layer=3: .* from 0 to 2"):
        loaded(path, 3)
    with pytest.raises(UserError, match=r"quantizer\.checkpoint=.*none\.ckpt .* no checkpoint"):
        loaded(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"needs quantizer\.checkpoint=PATH"):
        with_teacher(run_config("quantizer=teacher"))
    other = loaded(teacher_file("frontend.sample_rate=8000", name="8k.ckpt"))
    with pytest.raises(UserError, match=r"8000 Hz, .* frontend\.sample_rate=16000"):
        other.require_alignment(16000, 640)
    with pytest.raises(UserError, match=r"40 ms\) .* \(60 ms\) cannot be aligned"):
        loaded(path).require_alignment(16000, 960)
    with pytest.raises(UserError, match="num_codebooks=1 must be a multiple of the 2 layers"):
        TeacherQuantizer(layer=[1, 2])
    with pytest.raises(UserError, match=r"quantizer\.layer=\[2, 1\]"):
        TeacherQuantizer(layer=[2, 1])


@pytest.mark.parametrize("standardize", [True, False])
def test_codes_belong_to_standardized_principal_components(standardize: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(200, 1, 4, generator=generator) * torch.tensor([1.0, 10.0, 3.0, 0.1]) + 3.0
    quantizer = TeacherQuantizer(num_classes=4, width=4, code_dim=2, standardize=standardize)
    quantizer.fit(frames)
    x = frames[:, 0] - frames[:, 0].mean(0)
    x = x / x.std(0) if standardize else x
    points = x @ quantizer.directions[0].t()
    torch.testing.assert_close(points.var(0), torch.linalg.eigvalsh(x.t().cov())[2:].flip(0), rtol=1e-3, atol=0.0)
    nearest_center = torch.cdist(points, quantizer.centers[0]).argmin(-1)
    assert torch.equal(quantizer.quantize(frames)[:, 0], nearest_center) and len(nearest_center.unique()) == 4
    # Centers that heads were trained with stay.
    quantizer.fit(frames.flip(-1))
    assert torch.equal(quantizer.quantize(frames)[:, 0], nearest_center)


def test_too_few_frames_are_refused_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = TeacherQuantizer(num_classes=16, width=4)
    with pytest.raises(UserError, match=r"16 centers .* 15 frames .* statistics\.hours"):
        quantizer.fit(torch.randn(15, 1, 4))
    quantizer.fit(torch.randn(100, 1, 4))
    assert "16 codes are fitted to only 100 frames" in caplog.text


def test_a_checkpoint_is_complete_without_its_teacher(
    run_config: Compose, teacher_file: MakeTeacher, speech_like: Audio, tmp_path: Path
) -> None:
    path = teacher_file()
    write_checkpoint(student(run_config, path), tmp_path / "student.ckpt")
    path.unlink()
    transfer(ready(run_config("encoder=bidirectional")), tmp_path / "student.ckpt")
    model, audio = load_model(tmp_path / "student.ckpt"), speech_like(1, 16000)
    assert isinstance(model, Pretraining) and model(audio, torch.tensor([16000]))[0].shape == (1, 25, 32)
    with pytest.raises(UserError, match=r"quantizer\.checkpoint=.*teacher\.ckpt"):
        model.quantizer.codes(audio, torch.tensor([16000]))  # type: ignore[operator]
