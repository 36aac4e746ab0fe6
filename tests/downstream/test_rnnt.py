"""task=rnnt: streaming equals offline recognition, and unusable texts are left out of the loss."""

from __future__ import annotations

import io

import pytest
import torch
from recognizers import LABELS, recognizer, transducer, untrained

from streamnest.build import build_model
from streamnest.checkpoint.compatibility import check_architecture
from streamnest.checkpoint.loading import StoredCheckpoint, load_model
from streamnest.data.batch import Batch
from streamnest.data.labels import Label
from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.errors import UserError
from streamnest.randomness import random_keys

# CI has twenty minutes; `make test-all` runs these.
pytestmark = pytest.mark.long

SMALL = ("task=rnnt", "task.prediction_dim=16", "task.joiner_dim=16")


def streamed(session, audio, cuts):
    parts = [session.push(piece) for piece in torch.tensor_split(audio, sorted(cuts))]
    return "".join([*parts, session.flush()]), parts


def batch_of(audio, texts):
    lengths = torch.tensor([audio.shape[1]] * len(texts))
    labels = [Label(text=text) for text in texts]
    return Batch(audio, audio, lengths, random_keys(len(texts)), 0, list(map(str, range(len(texts)))), 1.0, {}, labels)


@pytest.mark.parametrize(
    ("preset", "network"),
    [
        ("causal", "lstm"),
        ("lookahead40", "stateless"),
        ("lookahead320", "lstm"),
        ("limited3200", "stateless"),
    ],
)
def test_any_chunking_gives_the_offline_text(run_config, speech_like, preset, network):
    model = transducer(run_config(*SMALL, f"encoder={preset}", f"task.prediction_network={network}")).double()
    session = StreamingRecognizer(model)
    generator = torch.Generator().manual_seed(1)
    for samples in (30011, 200, 0):
        audio = speech_like(1, samples, seed=samples)[0].double()
        expected = model.recognize(audio[None], torch.tensor([samples]))[0]
        assert (len(set(expected)) > 3) is (samples > 20000)
        for count in (3, 25):
            cuts = torch.randint(0, samples + 1, (count,), generator=generator).tolist()
            assert streamed(session, audio, cuts)[0] == expected


def test_text_comes_before_the_stream_ends(run_config, speech_like):
    model = transducer(run_config(*SMALL, "encoder=causal")).double()
    _, parts = streamed(StreamingRecognizer(model), speech_like(1, 48000)[0].double(), [16000, 32000])
    assert all(parts)


@pytest.mark.parametrize("network", ["stateless", "lstm"])
def test_rows_and_padding_do_not_change_a_text(run_config, speech_like, network):
    model = transducer(run_config(*SMALL, "encoder=lookahead80", f"task.prediction_network={network}")).double()
    audio, lengths = speech_like(3, 40000).double(), torch.tensor([40000, 25000, 16001])
    alone = [model.recognize(audio[i : i + 1, :n], torch.tensor([n]))[0] for i, n in enumerate(lengths.tolist())]
    assert model.recognize(audio, lengths) == alone and len(set(alone)) == 3


@pytest.mark.parametrize("words", [("task=ctc",), SMALL, (*SMALL, "task.prediction_network=lstm")])
def test_a_restored_stream_continues_with_the_same_text(run_config, speech_like, words):
    make = recognizer if words == ("task=ctc",) else transducer
    model = make(run_config(*words, "encoder=lookahead40")).double()
    audio = speech_like(1, 48000)[0].double()
    expected, written = model.recognize(audio[None], torch.tensor([48000]))[0], io.BytesIO()
    session = StreamingRecognizer(model)
    begun = session.push(audio[:21000])
    torch.save(session.save(), written)
    written.seek(0)
    other = StreamingRecognizer(model)
    other.push(audio[30000:])
    other.restore(torch.load(written, weights_only=True))
    for live in (other, session):
        assert begun + live.push(audio[21000:]) + live.flush() == expected
    assert 0 < len(begun) < len(expected)


def test_unusable_texts_are_counted_and_left_out_of_rnnt_loss(run_config, speech_like):
    model = transducer(run_config(*SMALL, "task.max_symbols=2"))
    audio = speech_like(4, 16000)
    encoded, valid = model(audio, torch.tensor([16000] * 4))
    outputs, frames = model.outputs(encoded), int(valid[0])
    texts = ["abc", "a" * (2 * frames + 1), None, "a" * (2 * frames)]
    loss, tokens = model.loss_of(encoded, valid, batch_of(audio, texts))
    rows = [0, 3]
    alone, count = model.loss(
        outputs[rows], valid[rows], [model.tokenizer.encode(texts[r]) for r in rows], [True, True]
    )
    assert model.unusable == {"longer text than frames": 1, "without text": 1}
    assert torch.isfinite(loss) and torch.equal(loss, alone) and tokens == count == 3 + 2 * frames


def test_without_usable_text_every_weight_has_a_gradient(run_config, speech_like):
    model = transducer(run_config(*SMALL, "task.prediction_network=lstm")).train()
    audio = speech_like(1, 8000)
    encoded, valid = model(audio, torch.tensor([8000]))
    loss, tokens = model.loss_of(encoded, valid, batch_of(audio, [None]))
    loss.backward()
    assert loss == 0 and tokens == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.head.parameters())


@pytest.mark.parametrize("words", [("task.max_scores=1",), ("task.prediction_network=lstm", "freeze=encoder")])
def test_two_steps_train_every_weight_that_is_not_frozen(train, run_config, words):
    model, trainer = train(*SMALL, *words, "optim.warmup_steps=1", steps=2)
    assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["train/loss"])
    trained = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
    parts = {name.split(".")[0] for name in trained}
    assert parts == ({"head"} if "freeze=encoder" in words else {"head", "encoder"})
    assert {name for name, _ in model.head.named_parameters()} <= {name.removeprefix("head.") for name in trained}


def test_an_untrained_model_emits_blanks_only(run_config, speech_like):
    model = untrained(run_config("task=rnnt"))
    assert model.recognize(speech_like(1, 32000), torch.tensor([32000])) == [""]


def test_settings_out_of_range_are_refused(run_config):
    for key, value in (("joiner_dim", 0), ("max_symbols", 0), ("max_scores", 0), ("prediction_network", "gru")):
        cfg = run_config("task=rnnt")
        cfg.task[key] = value
        with pytest.raises(UserError, match=f"task.{key}="):
            build_model(cfg, labels=LABELS)


def test_a_run_cannot_continue_with_another_prediction_network(run_config, tmp_path, speech_like):
    model = transducer(run_config(*SMALL))
    saved = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(saved)
    torch.save(saved, tmp_path / "rnnt.ckpt")
    audio, lengths = speech_like(1, 32000), torch.tensor([32000])
    assert load_model(tmp_path / "rnnt.ckpt").recognize(audio, lengths) == model.recognize(audio, lengths)
    check_architecture(StoredCheckpoint.read(tmp_path / "rnnt.ckpt"), model.config)
    other = build_model(run_config(*SMALL, "task.prediction_network=lstm"), labels=LABELS)
    with pytest.raises(UserError, match=r"task\.prediction_network: 'stateless' in the checkpoint, 'lstm' in this run"):
        check_architecture(StoredCheckpoint.read(tmp_path / "rnnt.ckpt"), other.config)
