"""Texts, speakers and languages in manifests and batches, and selection by them."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import data_module, make_cut, tone, write_manifest

from streamnest.data.labels import Label, label_of
from streamnest.data.manifest import load_cuts
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Thirty seconds: every third utterance has no text, half of them are French, and one is too long."""
    folder = tmp_path_factory.mktemp("files")
    cuts = []
    for i in range(20):
        cut = make_cut(folder, f"u{i}", tone(1.5, i), speaker=f"s{i % 4}")
        cut.supervisions[0].text = None if i % 3 == 0 else f"Wörter {i}"
        cut.supervisions[0].language = "fr" if i % 2 else "en"
        cut.custom = {"speaker_in_train": False} if i == 19 else None
        cuts.append(cut)
    cuts.append(make_cut(folder, "long", tone(4.0, 50), speaker="s1"))
    cuts[-1].supervisions[0].text = "long"
    return write_manifest(folder / "cuts.jsonl", cuts)


@pytest.fixture(scope="module")
def shards(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "all"
    cuts, _ = load_cuts(manifest)
    write_shards(cuts, str(out), make_plan(cuts, "flac", 6))
    return out


def module(train, **options):
    data = data_module(str(train), num_batches=1, **{"max_duration": 3.0, **options})
    data.setup("fit")
    return data


def ids(data):
    return [cut.id for cut in data._cuts["train"]]


def test_shards_keep_all_labels_except_custom_fields(manifest, shards):
    both = (module(train, on_long="skip")._cuts["train"] for train in (manifest, shards))
    for one, other in zip(*both, strict=True):
        label = label_of(one)
        assert label_of(other) == Label(label.text, label.speaker, label.language) and one.id == other.id
    assert label_of(module(shards)._cuts["train"][1]).text == "Wörter 1"


def test_batches_have_the_label_of_each_row(manifest):
    data = module(manifest)
    known = {cut.id: label_of(cut) for cut in data._cuts["train"]}
    batch = next(iter(data.train_dataloader()))
    assert len(batch.labels) == len(batch.ids) and batch.labels == [known[cut_id] for cut_id in batch.ids]
    assert any(label.text for label in batch.labels)
    assert known["u19"] == Label("Wörter 19", "s3", "fr", speaker_in_train=False)


def test_windows_of_a_split_utterance_in_shards_have_no_text(shards):
    windows = [cut for cut in module(shards)._cuts["train"] if cut.id.startswith("long")]
    assert len(windows) == 2 and all(label_of(cut).text is None for cut in windows)


@pytest.mark.parametrize("kind", ["manifest", "shards"])
def test_other_languages_and_untranscribed_utterances_are_counted(kind, request):
    data = module(request.getfixturevalue(kind), transcribed=True, languages=["fr"])
    assert ids(data) == [f"u{i}" for i in range(20) if i % 3 and i % 2]
    report = data.report["train"]
    assert report.counts == {"other language": 10, "without text": 3, "too long": 1}
    assert report.num_cuts == 7 and report.seconds == pytest.approx(10.5) and report.speakers == {"s1", "s3"}


def test_larger_subsets_contain_smaller_ones_of_the_same_seed(manifest):
    few, many = module(manifest, max_hours=6 / 3600), module(manifest, max_hours=15.1 / 3600)
    assert len(ids(few)) == 4 and set(ids(few)) < set(ids(many)) and 8 <= len(ids(many)) <= 10
    assert ids(few) == ids(module(manifest, max_hours=6 / 3600))
    assert ids(few) != ids(module(manifest, max_hours=6 / 3600, seed=1))
    assert float(np.sum([cut.duration for cut in few._cuts["train"]])) == few.report["train"].seconds == 6.0


def test_speakers_dropped_by_max_hours_count_as_seen(manifest):
    data = module(manifest, max_hours=1.5 / 3600)
    assert len(data.speakers) == 1
    assert all(data.is_seen(Label(speaker=f"s{i}")) for i in range(4)) and not data.is_seen(Label(speaker="s9"))
    assert not data.is_seen(Label(speaker="s1", speaker_in_train=False))


def test_an_unnamed_speaker_is_neither_seen_nor_unseen(manifest):
    data = module(manifest)
    assert data.is_seen(Label()) is None and data.is_seen(Label(speaker="s9")) is False
    assert data.is_seen(Label(speaker_in_train=True)) is True


def test_an_empty_selection_is_refused(manifest):
    with pytest.raises(UserError, match=r"no utterance of the train set is in data\.languages"):
        module(manifest, languages=["de"])
