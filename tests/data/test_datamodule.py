from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from corpus import data_module, make_cut, tone, write_manifest
from omegaconf import OmegaConf

from streamnest.build import build_data
from streamnest.data.augment.augmentation import Augmentation
from streamnest.data.config import AugmentConfig, SpeedConfig
from streamnest.data.sampling.sources import digest
from streamnest.errors import UserError


@pytest.fixture
def manifests(tmp_path):
    train = [make_cut(tmp_path, f"t{i}", tone(1 + i % 5 / 4, i), speaker=f"s{i % 4}") for i in range(20)]
    val = [make_cut(tmp_path, f"v{i}", tone(1 + i / 10, 50 + i)) for i in range(5)]
    noise = [make_cut(tmp_path, f"n{i}", tone(0.5 + i, 90 + i)) for i in range(2)]
    parts = {"train_manifest": train, "val_manifest": val, "noise_manifest": noise}
    return {name: str(write_manifest(tmp_path / f"{name}.jsonl", cuts)) for name, cuts in parts.items()}


def module(manifests, **changes):
    options = {"batch_duration": 6.0, "num_buckets": 2, "num_batches": 12, **manifests, **changes}
    data = data_module(**options, augment=Augmentation(AugmentConfig(prob=1.0)))
    data.setup("fit")
    return data


def same(one, two):
    return one.ids == two.ids and one.step == two.step and torch.equal(one.noisy, two.noisy)


def test_the_report_has_hours_and_speakers(manifests):
    data = module(manifests)
    assert data.train_hours == pytest.approx(30 / 3600) and data.report["val"].seconds == pytest.approx(6)
    assert data.speakers == {"s0", "s1", "s2", "s3"} and data.report["noise"].num_cuts == 2


def test_several_manifests_are_joined(manifests):
    both = module({**manifests, "train_manifest": [manifests["train_manifest"], manifests["val_manifest"]]})
    assert both.report["train"].num_cuts == 25


def test_training_batches_are_noisy_and_numbered(manifests):
    batches = list(module(manifests).train_dataloader())
    assert [batch.step for batch in batches] == list(range(12))
    assert all((batch.noisy != batch.clean).any(1).all() for batch in batches if len(batch.ids) > 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_restored_in_the_middle_continues_exactly(manifests, workers):
    whole = list(module(manifests).train_dataloader())
    loader = module(manifests, num_workers=workers).train_dataloader()
    stream = iter(loader)
    head = [next(stream) for _ in range(5)]
    state = loader.state_dict()
    restored = module(manifests, num_workers=workers).train_dataloader()
    restored.load_state_dict(state)
    tail = list(restored)
    assert len(head + tail) == len(whole) == 12
    assert all(same(one, two) for one, two in zip(head + tail, whole))


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_a_resume_with_other_workers_continues_exactly(manifests, before, after):
    whole = list(module(manifests).train_dataloader())
    loader = module(manifests, num_workers=before).train_dataloader()
    stream = iter(loader)
    head = [next(stream) for _ in range(5)]
    restored = module(manifests, num_workers=after).train_dataloader()
    restored.load_state_dict(loader.state_dict())
    assert all(same(one, two) for one, two in zip(head + list(restored), whole, strict=True))


def test_workers_are_one_per_core_at_most_four(manifests, monkeypatch):
    data = module(manifests, num_workers=None)
    for cores, processes, workers in ((1, None, 1), (2, None, 2), (64, None, 4), (6, 2, 3), (2, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        data.trainer = processes and SimpleNamespace(num_devices=processes, global_rank=0, world_size=processes)
        assert data.train_dataloader().num_workers == data.val_dataloader().num_workers == workers
    assert module(manifests, num_workers=0).train_dataloader().num_workers == 0


@pytest.mark.parametrize("since", [None, 0, 2])
def test_loader_states_of_torchdata_are_read(manifests, since):
    """States with and without workers; those with workers are some batches after a snapshot."""
    start = {"step": 0, "batch": 0, "group": 1, "epoch": 10}
    place = {"step": 5 - (since or 0), "batch": 5 - (since or 0)}
    state = {"_index_sampler_state": start, "_sampler_iter_state": place, "_num_yielded": 5}
    if since is not None:
        state = {"_snapshot": {"_main_snapshot": state}, "_steps_since_snapshot": since}
    restored = module(manifests).train_dataloader()
    restored.load_state_dict(state)
    assert all(same(*pair) for pair in zip(restored, list(module(manifests).train_dataloader())[5:], strict=True))


@pytest.mark.parametrize("change", [{"seed": 7}, {"batch_duration": 5.9}, {"max_hours": 0.008}])
def test_a_resume_with_other_data_is_reported(manifests, caplog, change):
    state = module(manifests).train_dataloader().state_dict()
    module(manifests).train_dataloader().load_state_dict(state)
    assert "have changed" not in caplog.text
    module(manifests, **change).train_dataloader().load_state_dict(state)
    assert "have changed since the checkpoint" in caplog.text


def test_another_id_changes_the_digest(manifests):
    one, two = (module(manifests)._cuts["train"] for _ in range(2))
    assert digest(one) == digest(two)
    two.parts[0][3].id = "other"
    assert digest(one) != digest(two)


def test_missing_manifests_are_named(composed):
    with pytest.raises(UserError, match=r"^data.train_manifest must be set.*`streamnest prepare`"):
        build_data(composed("data=manifest"))


class BatchRecorder(L.LightningModule):
    """Trains one weight and records its batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def training_step(self, batch, _):
        self.batches.append((batch.step, tuple(batch.ids), float(batch.noisy.sum())))
        return self.weight * batch.noisy.mean()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEachStep(L.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{batch.step + 1}.ckpt")


def train(data, folder, steps, checkpoint=None):
    model = BatchRecorder()
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=2,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[SaveEachStep(folder)],
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model.batches


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_lightning_run_gets_the_same_batches(manifests, tmp_path, workers):
    options = {"num_batches": None, "num_workers": workers}
    whole = train(module(manifests, **options), tmp_path, 8)
    assert [step for step, _, _ in whole] == list(range(16))
    assert train(module(manifests, **options), tmp_path, 8, tmp_path / "6.ckpt") == whole[6:]
    short = train(module(manifests, **options), tmp_path, 5)
    assert short + train(module(manifests, **options), tmp_path, 8, tmp_path / "10.ckpt") == whole


def test_validation_is_clean_complete_and_repeatable(manifests):
    data = module(manifests)
    one, two = list(data.val_dataloader()), list(data.val_dataloader())
    assert sorted(cut_id for batch in one for cut_id in batch.ids) == [f"v{i}" for i in range(5)]
    assert all(same(a, b) and a.noisy is a.clean and a.step == 0 for a, b in zip(one, two))


def test_noisy_validation_is_repeatable(manifests):
    data = module(manifests, augment_val=True)
    one, two = list(data.val_dataloader()), list(data.val_dataloader())
    assert all(same(a, b) for a, b in zip(one, two))
    assert any((a.noisy != a.clean).any() for a in one)


def test_no_validation_manifest_means_no_validation(manifests):
    assert module({**manifests, "val_manifest": None}).val_dataloader() == []


def test_statistics_use_the_clean_training_set_on_all_ranks(manifests):
    one, two = module(manifests), module(manifests, seed=3)
    two.trainer = SimpleNamespace(global_rank=1, world_size=2)
    batches = list(one.statistics_batches())
    assert sorted(cut_id for batch in batches for cut_id in batch.ids) == sorted(f"t{i}" for i in range(20))
    assert all(batch.noisy is batch.clean for batch in batches)
    assert [batch.ids for batch in batches] == [batch.ids for batch in two.statistics_batches()]


def test_ranks_and_the_number_of_batches_come_from_the_trainer(manifests):
    loaders = []
    for rank in range(2):
        data = module(manifests, num_batches=None)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, max_steps=3, accumulate_grad_batches=2)
        loaders.append(data.train_dataloader())
        assert len(data.val_dataloader()) == 1
    assert [len(loader) for loader in loaders] == [6, 6]
    ids = [cut_id for loader in loaders for batch in list(loader)[:2] for cut_id in batch.ids]
    assert len(set(ids)) == len(ids) >= 10


def test_a_run_without_a_step_limit_is_endless(manifests):
    data = module(manifests, num_batches=None)
    with pytest.raises(UserError, match="num_batches"):
        data.train_dataloader()
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, max_steps=-1, accumulate_grad_batches=1)
    assert len(data.train_dataloader()) > 10**9


def test_reverb_and_speed_use_the_seed_of_the_group():
    composed = OmegaConf.merge(OmegaConf.structured(AugmentConfig), {"seed": 3, "speed": {"seed": 4}})
    for config in (OmegaConf.to_object(composed), AugmentConfig(seed=3, speed=SpeedConfig(seed=4))):
        augment = Augmentation(config)
        assert (augment.mixing.config.seed, augment.reverb.seed, augment.speed.seed) == (3, 3, 4)


def test_invalid_channels_are_refused(manifests):
    for channel in ("left", -1):
        with pytest.raises(UserError, match="channel"):
            module(manifests, channel=channel)


def test_too_much_unreadable_audio_stops_the_run(manifests):
    data = module(manifests, max_skipped_share=0.2)
    (good, *_) = list(data.val_dataloader())
    for _ in range(500 // len(good.ids)):
        data.on_before_batch_transfer(good, 0)
    data.on_before_batch_transfer(replace(good, skipped={"missing": 100}), 0)
    with pytest.raises(UserError, match=r"200 of .*100 missing, 100 unreadable.*max_skipped_share=0.2"):
        data.on_before_batch_transfer(replace(good, skipped={"unreadable": 100}), 0)


def test_validation_has_its_own_channel_batches_and_memory(tmp_path):
    audio = {name: tone(1.5, seed, channels=2) for seed, name in enumerate("ab")}
    path = write_manifest(tmp_path / "m.jsonl", [make_cut(tmp_path, *pair) for pair in audio.items()])
    limits = {"batch_duration": 6.0, "val_batch_duration": 2.0, "num_batches": 1}
    data = data_module(str(path), val_manifest=str(path), channel=1, pin_memory=True, **limits)
    data.setup("fit")
    assert data.val_dataloader().pin_memory
    read = {batch.ids[0]: batch.clean[0] for batch in data.val_dataloader() if len(batch.ids) == 1}
    assert read.keys() == audio.keys()
    assert all(torch.equal(read[name], torch.from_numpy(samples[:, 1])) for name, samples in audio.items())
