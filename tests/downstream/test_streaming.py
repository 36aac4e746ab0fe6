"""Streaming recognition equals offline recognition."""

from __future__ import annotations

import pytest
import torch
from models import STREAMING_PRESETS
from recognizers import recognizer, transducer

from streamnest.downstream.asr.recognizer import StreamingRecognizer
from streamnest.errors import UserError


def streamed(session, audio, cuts):
    parts = [session.push(piece) for piece in torch.tensor_split(audio, sorted(cuts))]
    return "".join([*parts, session.flush()]), parts


@pytest.mark.parametrize("preset", STREAMING_PRESETS)
def test_any_chunking_gives_the_offline_text(run_config, speech_like, preset):
    model = recognizer(run_config("task=ctc", f"encoder={preset}")).double()
    session = StreamingRecognizer(model)
    generator = torch.Generator().manual_seed(1)
    for samples in (48000, 30011, 200, 0):
        audio = speech_like(1, samples, seed=samples)[0].double()
        expected = model.recognize(audio[None], torch.tensor([samples]))[0]
        assert (len(set(expected)) > 3) is (samples > 20000)
        for count in (0, 3, 25):
            cuts = torch.randint(0, samples + 1, (count,), generator=generator).tolist()
            assert streamed(session, audio, cuts)[0] == expected


def test_text_comes_before_the_stream_ends(run_config, speech_like):
    model = recognizer(run_config("task=ctc", "encoder=causal")).double()
    _, parts = streamed(StreamingRecognizer(model), speech_like(1, 48000)[0].double(), [16000, 32000])
    assert all(parts)


def test_rows_and_padding_do_not_change_a_text(run_config, speech_like):
    model = recognizer(run_config("task=ctc", "encoder=lookahead80")).double()
    audio, lengths = speech_like(3, 40000).double(), torch.tensor([40000, 25000, 16001])
    alone = [model.recognize(audio[i : i + 1, :n], torch.tensor([n]))[0] for i, n in enumerate(lengths.tolist())]
    assert model.recognize(audio, lengths) == alone and len(set(alone)) == 3


def test_a_bidirectional_recognizer_cannot_stream(run_config):
    with pytest.raises(UserError, match="cannot stream"):
        StreamingRecognizer(recognizer(run_config("task=ctc", "encoder=bidirectional")))


@pytest.mark.parametrize("kind", [recognizer, transducer])
def test_a_recognizer_continues_after_a_refused_restore(run_config, speech_like, kind):
    task = "task=ctc" if kind is recognizer else "task=rnnt"
    stream = StreamingRecognizer(kind(run_config(task, "encoder=causal", "size.num_layers=1")))
    audio = speech_like(1, 32000)[0]
    stream.push(audio[:16000])
    saved = stream.save()
    decoder = saved["decoder"]
    tokens = decoder if isinstance(decoder, torch.Tensor) else decoder[1][0]
    bad = [{**saved, "decoder": torch.zeros(3)}, {**saved, "text": 3}, {**saved, "stream": {}}, {}, None]
    tokens += 1000
    for wrong in (*bad, saved):
        with pytest.raises(UserError):
            stream.restore(wrong)
    assert len(stream.session._streams) == 1
    tokens -= 1000
    rest = stream.push(audio[16000:])
    stream.restore(saved)
    assert stream.push(audio[16000:]) == rest
