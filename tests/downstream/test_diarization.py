from __future__ import annotations

from itertools import pairwise, permutations, zip_longest
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from inprocess import load
from speakers import NAMES, speaker_corpus

from streamnest.build import build_data, build_model
from streamnest.data.config import ConversationConfig, DataConfig
from streamnest.data.conversations.datamodule import ConversationDataModule
from streamnest.data.conversations.rttm import load_excerpts, read_rttm, write_rttm
from streamnest.data.conversations.simulation import ConversationSimulator, Turn
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.downstream.diarization.activity import (
    Decision,
    LiveDecision,
    arrivals,
    frames_to_turns,
    turns_to_frames,
)
from streamnest.downstream.diarization.diarizer import StreamingDiarizer
from streamnest.downstream.diarization.permutation import activity_loss
from streamnest.downstream.metrics.diarization_error import Scorer, summarize
from streamnest.errors import UserError

# CI has twenty minutes; `make test-all` runs these.
pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
MEETING = [Turn("a", 0.0, 4.0), Turn("b", 3.0, 7.0), Turn("c", 8.0, 9.5), Turn("a", 9.0, 11.0)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return speaker_corpus(tmp_path_factory.mktemp("speakers"), NAMES)


def simulated(**settings):
    return ConversationSimulator(ConversationConfig(**settings))


def module(corpus, simulator=None, val_conversations=40, **options):
    simulator = simulator or simulated(seconds=6.0)
    settings = {"min_duration": 0.5, "num_batches": 3, "batch_duration": 12.0, "num_buckets": 1, **options}
    config = DataConfig(train_manifest=str(corpus), val_manifest=str(corpus), **settings)
    data = ConversationDataModule(config, None, simulator, val_conversations)
    data.setup("fit")
    return data


def diarizer(cfg, labels=None):
    """Returns a diarizer with random weights whose probabilities are near 0 or 1."""
    torch.manual_seed(0)
    model = build_model(cfg, labels=labels).double().eval()
    model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    with torch.no_grad():
        noise = 0.1 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits = model.head(model(noise, torch.tensor([48000]))[0])[0]
        model.head.out.bias.sub_(logits.mean((0, 1)))
        model.head.out.weight.mul_(20), model.head.out.bias.mul_(20)
    return model


def test_the_pit_loss_is_that_of_the_best_assignment():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 20, 4, generator=generator, dtype=torch.float64)
    active, valid = torch.rand(3, 20, 4, generator=generator) < 0.3, torch.tensor([20, 7, 0])
    found = activity_loss(logits, active, valid)
    for row, length in enumerate(valid.tolist()):
        predicted, target = logits[row, :length], active[row, :length].double()
        costs = {
            order: F.binary_cross_entropy_with_logits(predicted, target[:, order], reduction="sum")
            for order in permutations(range(4))
        }
        assert found.nats[row] == pytest.approx(float(min(costs.values())), abs=1e-9)
        assert float(costs[tuple(found.order[row].tolist())]) == pytest.approx(float(found.nats[row]), abs=1e-9)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert torch.allclose(activity_loss(logits, active[..., order], valid).nats, found.nats)
        assert torch.allclose(activity_loss(logits[..., order], active, valid).nats, found.nats)


def test_by_arrival_each_column_has_a_fixed_speaker():
    logits, valid = torch.randn(2, 30, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([30, 30])
    active = logits > 0
    by_arrival = activity_loss(logits, active, valid, "arrival")
    expected = F.binary_cross_entropy_with_logits(logits, active.float(), reduction="none").sum((1, 2))
    assert torch.allclose(by_arrival.nats, expected)
    swapped = activity_loss(logits, active[..., [1, 0, 2, 3]], valid, "arrival")
    assert (swapped.nats > by_arrival.nats + 1).all()
    with pytest.raises(UserError, match="sideways"):
        activity_loss(logits, active, valid, "sideways")


def test_columns_are_in_the_order_of_arrival():
    turns = [Turn("late", 5.0, 9.0), Turn("early", 1.0, 2.0), Turn("brief", 0.0, 0.1), Turn("early", 6.0, 7.0)]
    assert arrivals(turns, 4) == ["brief", "early", "late"]
    assert arrivals(turns, 2) == ["early", "late"]


def test_frames_have_the_speakers_at_their_center():
    active = turns_to_frames([Turn("a", 0.1, 0.3), Turn("b", 0.26, 0.5)], 8, 0.08, 4)
    assert active[:, 0].tolist() == [False, True, True, True, False, False, False, False]
    assert active[:, 1].tolist() == [False, False, False, True, True, True, False, False]
    assert not active[:, 2:].any()
    back = frames_to_turns(active, 0.08)
    assert [turn.speaker for turn in back] == ["speaker 1", "speaker 2"]
    assert torch.equal(turns_to_frames(back, 8, 0.08, 4), active)


def test_labels_match_the_mix(corpus):
    data = module(corpus, simulated(seconds=6.0, speakers=(2, 4)))
    batch = data._dataset("train")[BatchIndex(0, list(range(15)))]
    overlaps = 0
    for audio, label in zip(batch.clean, batch.labels):
        active = turns_to_frames(label.turns, 600, 0.01, 4)
        energy = audio.reshape(600, 160).square().mean(1)
        inside = turns_to_frames([Turn("x", t.start - 0.01, t.end + 0.01) for t in label.turns], 600, 0.01, 1)[:, 0]
        assert (energy[active.any(1)] > 0).all() and (energy[~inside] == 0).all()
        overlaps += int((active.sum(1) > 1).sum())
    assert overlaps > 100
    assert {len({turn.speaker for turn in label.turns}) for label in batch.labels} >= {2, 3, 4}


def test_nobody_speaks_over_himself_and_speakers_have_their_level(corpus):
    simulator = simulated(
        seconds=6.0, speakers=(2, 3), overlap_prob=1.0, overlap=(0.1, 0.4), stay_prob=0.5, level_db=(-20, -20)
    )
    batch = module(corpus, simulator)._dataset("train")[BatchIndex(1, list(range(15)))]
    for audio, label in zip(batch.clean, batch.labels):
        for speaker in {turn.speaker for turn in label.turns}:
            own = [turn for turn in label.turns if turn.speaker == speaker]
            assert all(one.end <= other.start for one, other in pairwise(own))
        active = turns_to_frames(label.turns, 600, 0.01, 4).sum(1) == 1
        loudness = audio.reshape(600, 160)[active].square().mean().sqrt()
        assert float(20 * loudness.log10()) == pytest.approx(-20, abs=0.5)


def test_a_conversation_depends_on_its_key_only(corpus):
    data = module(corpus)
    dataset = data._dataset("train")
    together, alone = dataset[BatchIndex(5, [3, 0, 7])], data._dataset("train")[BatchIndex(5, [7])]
    assert torch.equal(together.clean[2], alone.clean[0]) and together.labels[2] == alone.labels[0]
    assert dataset[BatchIndex(6, [7])].labels != alone.labels
    assert module(corpus, seed=1)._dataset("train")[BatchIndex(5, [7])].labels != alone.labels


def test_conversations_are_the_same_whoever_loads_them(corpus, run_config):
    noise = f"data.noise_manifest={corpus}"
    files = (f"data.train_manifest={corpus}", f"data.val_manifest={corpus}", noise, "data.batch_duration=12")
    batches = []
    for workers in (0, 2):
        cfg = run_config("task=diarization", "augment=full", *files, "task.conversations.seconds=6")
        cfg.data.num_workers, cfg.data.num_batches = workers, 3
        data = build_data(cfg)
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    for one, other in zip_longest(*batches):
        assert torch.equal(one.noisy, other.noisy) and one.labels == other.labels and one.ids == other.ids
        assert one.clean.shape[1] == 6 * 16000
    turns = [label.turns for batch in batches[0] for label in batch.labels]
    assert len(set(turns)) == len(turns) > len(batches[0])


def test_validation_is_the_same_for_every_seed(corpus):
    one, other = (list(module(corpus, val_conversations=5, seed=seed).val_dataloader()) for seed in (0, 7))
    assert sum(len(batch.ids) for batch in one) == 5
    assert all(torch.equal(a.clean, b.clean) and a.labels == b.labels for a, b in zip_longest(one, other))


def test_the_reference_under_other_names_has_no_errors():
    scorer = Scorer(collar=0.0)
    same = scorer("x", MEETING, MEETING, 12.0)
    names = {"a": "b", "b": "c", "c": "a"}
    swapped = scorer("x", MEETING, [turn._replace(speaker=names[turn.speaker]) for turn in MEETING], 12.0)
    assert same.errors == swapped.errors == 0.0 and same.total == pytest.approx(11.5)
    assert scorer.assignment(MEETING, [Turn("one", 3.5, 6.5)]) == {"one": "b"}


def test_errors_are_counted_by_kind_with_a_collar():
    found = [Turn("x", 0.0, 4.2), Turn("y", 4.2, 7.0), Turn("z", 9.0, 11.0)]
    strict = Scorer(collar=0.0)("x", MEETING, found, 12.0)
    assert strict.missed == pytest.approx(1.0 + 1.5)
    assert strict.confusion == pytest.approx(1.5 + 0.2)
    lenient = Scorer(collar=0.25)("x", [Turn("a", 1.0, 4.0)], [Turn("x", 0.76, 4.24)], 12.0)
    assert lenient.errors == 0.0 and lenient.total == pytest.approx(2.5)
    single = Scorer(collar=0.0, skip_overlap=True)("x", MEETING, MEETING, 12.0)
    assert single.total == pytest.approx(11.5 - 2 * 1.5)
    assert summarize([strict])["der"] == pytest.approx(4.2 / 11.5)


@pytest.mark.parametrize(("past", "future"), [(0, 0), (4, 0), (3, 2), (2, 2), (0, 3)])
def test_streaming_decisions_equal_the_median_filter(past, future):
    probabilities = torch.rand(40, 3, generator=torch.Generator().manual_seed(past))
    decision = Decision(0.4, past, future)
    whole = decision(probabilities)
    above = F.pad((probabilities > 0.4).float().t(), (past, future)).t()
    for at in range(40):
        assert torch.equal(whole[at], above[at : at + past + 1 + future].mean(0) > 0.5)
    live = LiveDecision(decision, 3)
    parts = [live.push(piece) for piece in probabilities.split([0, 1, 2, 30, 7])]
    assert torch.equal(torch.cat([*parts, live.flush()]), whole)


def test_filters_that_do_not_fit_the_frames_are_refused():
    assert (Decision.of(0.5, 400, 160, 40).past, Decision.of(0.5, 400, 160, 80).future) == (5, 2)
    with pytest.raises(UserError, match="nearest values are 80 and 160"):
        Decision.of(0.5, 100, 0, 80)
    with pytest.raises(UserError, match="median_lookahead_ms=400"):
        Decision.of(0.5, 400, 400, 40)


@pytest.mark.parametrize("preset", ["causal", "lookahead80", "limited3200"])
@pytest.mark.parametrize("head", ["gru", "linear"])
def test_any_split_gives_the_offline_activity(run_config, speech_like, preset, head):
    model = diarizer(run_config("task=diarization", f"encoder={preset}", f"task.head={head}"))
    stream, generator = StreamingDiarizer(model), torch.Generator().manual_seed(1)
    for samples in (40000, 200, 0):
        audio = speech_like(1, samples, seed=samples)[0].double()
        with torch.no_grad():
            expected = model.diarize(audio[None], torch.tensor([samples]))[0]
        if samples > 20000:
            assert 0.05 < expected.float().mean() < 0.95
        for count in (0, 3, 20):
            cuts = sorted(torch.randint(0, samples + 1, (count,), generator=generator).tolist())
            parts = [*map(stream.push, torch.tensor_split(audio, cuts)), stream.flush()]
            assert torch.equal(torch.cat([part.active for part in parts]), expected)
            assert sum(len(part.probabilities) for part in parts) == len(expected)


def test_what_was_emitted_never_changes_whatever_comes_later(run_config, speech_like):
    model = diarizer(run_config("task=diarization", "encoder=lookahead40"))
    past = speech_like(1, 24000)[0].double()
    stream = StreamingDiarizer(model)
    emitted = torch.cat([stream.push(piece).active for piece in past.split(3000)])
    waited = 24000 / 16 - 40 * len(emitted)
    assert len(emitted) > 20 and waited <= model.latency.latency_worst_ms + stream.latency_ms + 80
    for seed in (1, 2):
        later = torch.cat([past, 3 * speech_like(1, 16000, seed=seed)[0].double()])
        with torch.no_grad():
            whole = model.diarize(later[None], torch.tensor([len(later)]))[0]
        assert torch.equal(whole[: len(emitted)], emitted)


def test_two_steps_train_and_padding_costs_nothing(train, corpus):
    files = (f"data.train_manifest={corpus}", f"data.val_manifest={corpus}", f"data.noise_manifest={corpus}")
    words = ("task=diarization", *files, "task.conversations.seconds=4", "data.batch_duration=8")
    model, trainer = train(*words, steps=2)
    loss = float(trainer.callback_metrics["train/loss"])
    assert trainer.global_step == 2 and 0.3 < loss < 1.0
    batch = trainer.datamodule._dataset("train")[BatchIndex(0, [0, 1])]
    model.eval()
    with torch.no_grad():
        encoded, valid = model(batch.clean, batch.lengths)
        padded = F.pad(encoded, (0, 0, 0, 9), value=5.0)
        assert torch.allclose(model.loss_of(encoded, valid, batch)[0], model.loss_of(padded, valid, batch)[0])


def test_recordings_with_rttm_are_scored_beside_the_simulated(train, corpus, tmp_path, run_config):
    soundfile.write(tmp_path / "talk.wav", 0.1 * np.random.default_rng(0).standard_normal(5 * 16000), 16000)
    write_rttm(tmp_path / "talk.rttm", {"talk": [Turn("a b", 0.5, 2.0), Turn("c", 1.5, 9.0)]})
    (cut,) = load_excerpts(tmp_path)
    assert [s.speaker for s in cut.supervisions] == ["a_b", "c"]
    files = (f"data.train_manifest={corpus}", f"data.val_manifest={corpus}", f"task.test_manifest={tmp_path}")
    words = ("task=diarization", *files, "task.conversations.seconds=4", "task.val_conversations=3", "augment=none")
    model, trainer = train(*words, steps=1)
    trainer.limit_val_batches = 1.0
    figures = trainer.validate(model, datamodule=trainer.datamodule, verbose=False)[0]
    assert {"val/loss", "val/der", "val/der_real", "val/der_confusion_real"} <= set(figures)
    assert "1 to 4 speakers" in dict(model.describe())["conversations"]
    real = [one for one in model._scored if one.real]
    assert [one.id for one in real] == ["talk"] and real[0].total == pytest.approx(0.5 + 2.5, abs=0.01)
    rows = dict(model.learned(figures, figures))
    # 0.5 of 3 s are of the other speaker; the collar removes the overlap.
    assert rows["DER, recorded, without a model"].endswith("true speech activity as one speaker 16.7%")
    assert "missed" in rows["DER, recorded"] and "0.25 s on each side" in rows["DER settings"]


def test_a_metric_of_the_last_validation_only_is_shown_alone(run_config):
    model = diarizer(run_config("task=diarization"))
    scored = {f"val/der{part}_real": 0.25 for part in ("", "_low", "_high", "_missed", "_false_alarm", "_confusion")}
    first = {"val/loss": 2.0}
    rows = dict(model.learned(first, {"val/loss": 1.0, **scored}))
    assert rows["DER, recorded"].startswith("25.0% (25.0% to 25.0%), ")
    assert rows["validation loss"] == "2.000 -> 1.000 nats"


def test_unreadable_files_are_a_share_of_the_utterances_used(corpus, tmp_path):
    broken = speaker_corpus(tmp_path, NAMES)
    for path in tmp_path.glob("ann-*.wav"):
        path.unlink()
    data = module(broken, simulated(seconds=15.0, turn=(1.0, 1.5)), max_skipped_share=0.5, check_files=False)
    dataset = data._dataset("train")
    batches = [dataset[BatchIndex(step, [*range(15)])] for step in range(4)]
    skipped, rows = (sum(counts) for counts in zip(*[(sum(b.skipped.values()), len(b.ids)) for b in batches]))
    # By conversations the guard would end this run, though most utterances can be read.
    assert skipped > rows and sum(batch.due for batch in batches) > 200
    for batch in 2 * batches:
        data.on_before_batch_transfer(batch, 0)
    assert data.skip_counter.due == 2 * sum(batch.due for batch in batches)


def test_rttm_files_survive_and_others_are_refused(tmp_path):
    write_rttm(tmp_path / "a.rttm", {"one": MEETING})
    assert read_rttm(tmp_path / "a.rttm") == {"one": MEETING}
    (tmp_path / "b.rttm").write_text("no turns here\n")
    with pytest.raises(UserError, match="is not a line of RTTM"):
        read_rttm(tmp_path / "b.rttm")
    with pytest.raises(UserError, match="no audio file has"):
        load_excerpts(tmp_path)


def save_checkpoint(model, path):
    saved = {"state_dict": model.float().state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, path)


def test_the_command_prints_writes_scores_and_plots_turns(run_config, speech_like, tmp_path, capsys):
    save_checkpoint(diarizer(run_config("task=diarization")), tmp_path / "last.ckpt")
    soundfile.write(tmp_path / "talk.wav", speech_like(1, 48000)[0].numpy(), 16000)
    write_rttm(tmp_path / "ref.rttm", {"talk": [Turn("a", 0.5, 2.0), Turn("b", 1.5, 3.0)]})
    names = [str(tmp_path / name) for name in ("last.ckpt", "talk.wav", "out.rttm", "ref.rttm", "talk.png")]
    words = [*names[:2], "--rttm", names[2], "--reference", names[3], "--plot", names[4]]
    assert load("diarize").run(load("diarize").parse(words)) == 0
    text = capsys.readouterr().out
    turns = read_rttm(names[2])["talk"]
    assert text.count("  speaker ") == len(turns) > 1
    assert "DER " in text and "collar 0.25 s on each side" in text
    assert Path(names[4]).read_bytes().startswith(b"\x89PNG")
    assert load("diarize").run(load("diarize").parse([names[0], names[1], "--reference", names[2]])) == 0
    text = capsys.readouterr().out
    assert "DER 0.0%" in text and "without a model: silence 100.0%, one speaker throughout" in text


def test_the_command_skips_unreadable_files(run_config, speech_like, tmp_path, capsys):
    save_checkpoint(diarizer(run_config("task=diarization")), tmp_path / "last.ckpt")
    for name in ("a.wav", "c.w64"):
        soundfile.write(tmp_path / name, speech_like(1, 16000)[0].numpy(), 16000)
    (tmp_path / "b.wav").write_bytes(b"no audio")
    (tmp_path / "d.wav").mkdir()
    words = [str(tmp_path / "last.ckpt"), str(tmp_path), "--rttm", str(tmp_path / "out.rttm")]
    assert load("diarize").run(load("diarize").parse(words)) == 1
    assert "b.wav" in capsys.readouterr().err and set(read_rttm(tmp_path / "out.rttm")) <= {"a", "c"}
    (tmp_path / "out.rttm").unlink()
    words[1] = str(tmp_path / "b.wav")
    assert load("diarize").run(load("diarize").parse(words)) == 2 and not (tmp_path / "out.rttm").exists()


def test_a_reference_of_one_recording_fits_one_file_only(tmp_path):
    write_rttm(tmp_path / "a.rttm", {"a": MEETING})
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(1600), 16000)
    one, both = ([str(tmp_path / name) for name in names] for names in (["b.wav"], ["a.wav", "b.wav"]))
    command = load("diarize")

    def references(audio, reference):
        args = command.parse(["last.ckpt", *audio, "--reference", str(reference)])
        return [command.reference_of(args, path, len(audio) == 1) for path in command.find(args)]

    assert references(one, tmp_path / "a.rttm") == [MEETING]
    with pytest.raises(UserError, match=r"a\.rttm has a, but not b"):
        references(both, tmp_path / "a.rttm")
    write_rttm(tmp_path / "b.rttm", {"whatever": MEETING[:1]})
    assert references(both, tmp_path) == [MEETING, MEETING[:1]]


@pytest.mark.parametrize("option", ["--rttm", "--reference", "--plot"])
def test_files_of_one_name_are_refused_for_named_outputs(tmp_path, option):
    command = load("diarize")
    words = ["last.ckpt", "m1/mix.wav", "m2/mix.wav"]
    with pytest.raises(UserError, match=rf"m1/mix\.wav and m2/mix\.wav have the same name, but {option} refers"):
        command.run(command.parse([*words, option, str(tmp_path / "x.png")]))
    assert len(command.find(command.parse(words))) == 2


def test_files_longer_than_the_left_context_are_counted(run_config, speech_like, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("streamnest.downstream.long_audio.STREAM_PAST_S", 1.0)
    save_checkpoint(diarizer(run_config("task=diarization", "encoder=causal")), tmp_path / "last.ckpt")
    for seconds in (1, 2):
        soundfile.write(tmp_path / f"{seconds}.wav", speech_like(1, 16000 * seconds)[0].numpy(), 16000)
    command = load("diarize")
    assert command.run(command.parse([str(tmp_path / "last.ckpt"), str(tmp_path)])) == 0
    assert "1 of 2 files are longer than the 1 s of left context that a stream keeps" in capsys.readouterr().err


@pytest.mark.long
def test_one_conversation_is_learned_by_heart(run_config, corpus):
    torch.manual_seed(0)
    words = ("task=diarization", "encoder=causal", "size.dropout=0", "task.spec_augment.bands=0")
    model = build_model(run_config(*words))
    data = module(corpus, simulated(seconds=10.0, speakers=(3, 3)))
    batch = data._dataset("train")[BatchIndex(0, [0])]
    assert len({turn.speaker for turn in batch.labels[0].turns}) == 3
    features, _ = model.frontend(batch.clean, batch.lengths)
    model.input_norm.set_statistics(features.mean((0, 2)), features.std((0, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(150):
        loss, count = model.loss_of(*model(batch.clean, batch.lengths), batch)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()
    stream = StreamingDiarizer(model)
    parts = [*map(stream.push, batch.clean[0].split(2000)), stream.flush()]
    turns = model.turns(torch.cat([part.active for part in parts]))
    assert summarize([Scorer()("x", batch.labels[0].turns, turns, 10.0)])["der"] < 0.05
