from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from speakers import speaker_corpus

from streamnest.build import build_data, build_model
from streamnest.downstream.speaker.embedder import StreamingEmbedder
from streamnest.downstream.speaker.pooling import Moments
from streamnest.downstream.speaker.task import SpeakerClassifier
from streamnest.errors import UserError

# CI has twenty minutes; `make test-all` runs these.
pytestmark = pytest.mark.long

LABELS = {"speakers": ["ann", "bob", "cleo"]}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speakers")
    known = speaker_corpus(folder / "train", ["ann", "bob", "cleo"], each=6)
    return known, speaker_corpus(folder / "dev", ["dan", "eve"], each=3)


def recognizer(cfg):
    torch.manual_seed(0)
    model = build_model(cfg, labels=LABELS).double().eval()
    model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return model


def test_merged_statistics_equal_those_of_the_whole_without_padding():
    frames = 100 + torch.randn(2, 50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.tensor([50, 31])
    padded = Moments.of(frames, valid).statistics()
    assert torch.allclose(padded[1, :8], frames[1, :31].mean(0))
    assert torch.allclose(padded[1, 8:], frames[1, :31].std(0, unbiased=False), atol=1e-4)
    first = Moments.of(frames[:, :0], torch.tensor([0, 0]))
    for piece in frames.split([1, 7, 0, 42], 1):
        first = first + Moments.of(piece, torch.tensor([piece.shape[1]] * 2))
    assert torch.allclose(first.statistics()[0], padded[0], atol=1e-12)


def test_a_streaming_embedding_equals_the_offline_one(run_config, speech_like):
    model = recognizer(run_config("task=speaker", "encoder=lookahead80"))
    stream, generator = StreamingEmbedder(model), torch.Generator().manual_seed(0)
    audio = speech_like(1, 40000)[0].double()
    with torch.no_grad():
        expected = model.embed(audio[None], torch.tensor([40000]))[0]
    assert float(expected.norm()) == pytest.approx(1)
    assert stream.push(audio[:100]) is None and stream.flush() is None
    for count in (0, 4, 20):
        cuts = sorted(torch.randint(0, 40001, (count,), generator=generator).tolist())
        so_far = [stream.push(piece) for piece in torch.tensor_split(audio, cuts)]
        assert so_far[-1] is not None
        found = stream.flush()
        assert torch.allclose(found, expected, atol=1e-10) and stream.embedding is None


def test_rows_and_padding_do_not_change_an_embedding(run_config, speech_like):
    model = recognizer(run_config("task=speaker"))
    audio, lengths = speech_like(3, 30000).double(), torch.tensor([30000, 17000, 9000])
    with torch.no_grad():
        together = model.embed(audio, lengths)
        alone = [model.embed(audio[i : i + 1, :n], torch.tensor([n]))[0] for i, n in enumerate(lengths.tolist())]
    assert torch.allclose(together, torch.stack(alone), atol=1e-10)


def test_the_margin_raises_the_loss_and_unknown_speakers_are_ignored():
    torch.manual_seed(0)
    classifier, embeddings = SpeakerClassifier(8, 3, "am_softmax", 0.2, 30.0), torch.randn(4, 8)
    logits, targets = classifier(embeddings), torch.tensor([0, 2, -1, 1])
    with_margin = float(classifier.train().loss(logits, targets))
    right = F.one_hot(targets.clamp_min(0), 3) * 0.2 * 30.0
    assert with_margin == pytest.approx(
        float(F.cross_entropy((logits - right)[[0, 1, 3]], targets[[0, 1, 3]], reduction="sum"))
    )
    assert float(classifier.eval().loss(logits, targets)) < with_margin
    assert float(logits.abs().max()) <= 30.0
    with pytest.raises(UserError, match=r"task\.loss"):
        SpeakerClassifier(8, 3, "triplet", 0.2, 30.0)


def test_held_out_recordings_of_training_speakers_are_not_trained_on(corpora, run_config):
    words = [f"data.train_manifest={corpora[0]}", f"data.val_manifest={corpora[1]}", "data.noise_manifest=null"]
    data = build_data(run_config("task=speaker", "task.held_out=0.3", *words))
    data.setup("fit")
    train, val = ({cut.id for cut in data._cuts[part]} for part in ("train", "val"))
    held = {name for name in val if not name.startswith(("dan", "eve"))}
    assert not train & val and len(train | val) == 24 and 2 <= len(held) <= 9
    assert data.report["val"].num_cuts == len(val) and data.training_speakers == ["ann", "bob", "cleo"]
    assert sum(data.is_seen(label) for batch in data.val_dataloader() for label in batch.labels) == len(held)


def test_validation_scores_training_and_unseen_speakers(train, corpora):
    words = [f"data.train_manifest={corpora[0]}", f"data.val_manifest={corpora[1]}", "data.noise_manifest=null"]
    model, trainer = train("task=speaker", "augment=none", "task.held_out=0.3", *words, steps=2)
    assert trainer.global_step == 2 and float(trainer.callback_metrics["train/loss"]) > 0
    trainer.limit_val_batches = 1.0
    figures = trainer.validate(model, datamodule=trainer.datamodule, verbose=False)[0]
    assert 0 <= figures["val/accuracy"] <= 1 and 0 <= figures["val/eer"] <= 1
    rows = dict(model.learned(figures, figures))
    assert "on training speakers" in rows["accuracy"] and "in 15 trials of unseen speakers" in rows["equal error rate"]
    assert figures["val/eer_low"] <= figures["val/eer"] <= figures["val/eer_high"]


def test_a_single_speaker_is_refused(corpora, run_config, tmp_path):
    alone = speaker_corpus(tmp_path, ["ann"])
    cfg = run_config(
        "task=speaker", f"data.train_manifest={alone}", f"data.val_manifest={alone}", "data.noise_manifest=null"
    )
    with pytest.raises(UserError, match="has 1 speaker"):
        build_model(cfg, build_data(cfg))
