"""Untrusted checkpoints and model folders are loaded unchanged or refused with the reason."""

from __future__ import annotations

import copy
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hostile import EVIL, deep, flipped, mutated
from models import ready
from omegaconf import DictConfig

import streamnest
from streamnest.checkpoint.compatibility import check_training_state, stored_labels
from streamnest.checkpoint.loading import (
    StoredCheckpoint,
    load_model,
    read_checkpoint,
    write_checkpoint,
)
from streamnest.checkpoint.model_folder import CONFIG, WEIGHTS, write_folder
from streamnest.checkpoint.resume import newest_checkpoint, restoring
from streamnest.config.stored import ALLOWED, check_config, storable
from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.errors import UserError
from streamnest.optim import Optimization
from streamnest.pretraining import Pretraining

Compose = Callable[..., DictConfig]
STORED = Path(__file__).parents[1] / "fixtures/stored"
ROUNDS = int(os.environ.get("STREAMNEST_FUZZ", "1"))


_MADE: list[Pretraining] = []


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Pretraining:
    """Composes the config once, because that takes longer than most tests here."""
    if not _MADE:
        compose: Compose = request.getfixturevalue("run_config")
        _MADE.append(ready(compose("encoder=dynamic", "size.d_model=16", "size.num_layers=1")))
    return copy.deepcopy(_MADE[0])


@pytest.fixture
def folder(model: Pretraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own: dict[str, Any] = {}
    model.on_save_checkpoint(own)
    write_folder(tmp_path / "model", model.state_dict(), own["streamnest"], "")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Changes the config of a folder."""
    content = json.loads((folder / CONFIG).read_text())
    change(content["config"])
    (folder / CONFIG).write_text(json.dumps(content))
    return folder


def test_mutated_folders_load_or_are_refused(folder: Path) -> None:
    original, rng, outcomes = json.loads((folder / CONFIG).read_text()), random.Random(17), {"loaded": 0, "refused": 0}
    for number in range(200 * ROUNDS):
        config = mutated(original["config"], rng)
        content = {**original, "config": config} if number % 5 else mutated(original, rng)
        (folder / CONFIG).write_text(json.dumps(content))
        outcomes[outcome(folder)] += 1
    assert min(outcomes.values()) > 10 and not Path("owned").exists(), outcomes
    print(outcomes)


def outcome(path: Path) -> str:
    """Loads a file; returns None if it is refused with a message that names it."""
    try:
        load_model(path)
    except UserError as error:
        return "refused" if str(path) in str(error) else "a message without the file"
    return "loaded"


def test_mutated_checkpoints_load_or_are_refused(model: Pretraining, tmp_path: Path) -> None:
    path, rng, outcomes = tmp_path / "a.ckpt", random.Random(18), {"loaded": 0, "refused": 0}
    write_checkpoint(model, path)
    original = torch.load(path, weights_only=True)
    odd = [torch.zeros(2), torch.zeros(1).expand(10**12), {1: 2}, (1, 2), b"x", set(), torch.zeros(2).to_sparse(), 1j]
    for number in range(60 * ROUNDS):
        changed = copy.deepcopy(original)
        name = rng.choice(list(changed["state_dict"]))
        if number % 3 == 0:
            changed["state_dict"][name] = rng.choice(odd)
        elif number % 3 == 1:
            changed["streamnest"] = rng.choice(
                [rng.choice(odd), {"config": rng.choice(odd)}, mutated({"config": {}}, rng)]
            )
        else:
            changed["streamnest"]["config"][rng.choice(["encoder", "seed", "name"])] = rng.choice(odd)
        torch.save(changed, path)
        outcomes[outcome(path)] += 1
    assert outcomes["refused"] > 30
    print(outcomes)


def test_flipped_bytes_of_a_checkpoint_are_detected_or_harmless(model: Pretraining, tmp_path: Path) -> None:
    path, rng, refused = tmp_path / "a.ckpt", random.Random(19), 0
    write_checkpoint(model, path)
    whole, good = path.read_bytes(), read_checkpoint(path)["state_dict"]
    for _ in range(150 * ROUNDS):
        path.write_bytes(flipped(whole, rng))
        try:
            found = read_checkpoint(path)["state_dict"]
            assert all(torch.equal(value, found[name]) for name, value in good.items())
        except UserError:
            refused += 1
    assert refused > 100 * ROUNDS
    print(refused)


def test_damaged_pickles_with_right_checksums_are_refused_or_harmless(model: Pretraining, tmp_path: Path) -> None:
    path, rng, refused = tmp_path / "a.ckpt", random.Random(25), 0
    write_checkpoint(model, path)
    with zipfile.ZipFile(path) as old:
        members = {member.filename: old.read(member.filename) for member in old.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    for _ in range(80 * ROUNDS):
        with zipfile.ZipFile(path, "w") as new:
            for member, content in members.items():
                new.writestr(member, flipped(content, rng) if member == name else content)
        refused += outcome(path) == "refused"
    assert refused > 40 * ROUNDS
    print(refused)


def test_flipped_bytes_of_a_folder_are_detected(folder: Path) -> None:
    rng, whole = random.Random(20), (folder / WEIGHTS).read_bytes()
    for _ in range(50 * ROUNDS):
        (folder / WEIGHTS).write_bytes(flipped(whole, rng))
        if (folder / WEIGHTS).read_bytes() != whole:
            with pytest.raises(UserError, match="is damaged"):
                load_model(folder)


@pytest.mark.parametrize("evil", EVIL)
def test_classes_anywhere_in_a_config_are_refused(folder: Path, evil: Any) -> None:
    config = check_config(json.loads((folder / CONFIG).read_text())["config"])
    places: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c.update(encoder=evil),
        lambda c: c["encoder"].update(contexts={"causal": evil}),
        lambda c: c["encoder"].update(contexts=[evil]),
        lambda c: c["masking"].update(mask_value=evil),
        lambda c: c["optim"].update(betas=[evil]),
        lambda c: c["task"].update(monitor={"x": [evil]}),
        lambda c: c["trainer"].update(profiler=evil, plugins=[{"a": [evil]}]),
        lambda c: c["data"].update(train_manifest=[[evil]]),
        lambda c: c["augment"].update(reverb=evil),
        lambda c: c.update(callbacks={"a": evil}),
        lambda c: c.update(more=evil),
    ]
    for change in places:
        changed = copy.deepcopy(config)
        change(changed)
        with pytest.raises(UserError):
            check_config(changed)


def test_environment_variables_are_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    with pytest.raises(UserError, match=r"config\.tags\[0\].*interpolation") as caught:
        load_model(rewrite(folder, lambda config: config.update(tags=["${oc.env:SECRET}"])))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "values", "words"),
    [
        ("encoder", {"num_layers": 10**7}, r"encoder\.num_layers=10000000 must be a whole number from 1 to 512"),
        ("encoder", {"num_layers": "4"}, r"encoder\.num_layers='4' must be"),
        ("encoder", {"num_layer": 4}, r"encoder\.num_layer is not a known key: did you mean num_layers\?"),
        ("encoder", {"d_model": 16384, "num_layers": 512}, "weights and config do not belong together"),
        ("encoder", {"dropout": float("nan")}, "dropout=nan must be a number"),
        ("encoder", {"contexts": {"[/b]": {}}}, "is not a name"),
        ("quantizer", {"num_classes": 1 << 20, "num_codebooks": 64}, "weights and config do not belong together"),
        ("frontend", {"n_fft": 10**12}, r"frontend\.n_fft=1000000000000 must be"),
        ("masking", {"block_size": True}, r"masking\.block_size=True must be"),
        ("task", {"name": "cook"}, "task.name='cook' does not belong to streamnest.pretraining.Pretraining"),
        ("data", {"batch_duration": deep()}, "more than 24 levels"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_key(folder: Path, group: str, values: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_model(rewrite(folder, lambda config: config[group].update(values)))
    assert str(folder) in str(caught.value)


def test_a_small_file_cannot_describe_large_tensors(model: Pretraining, tmp_path: Path) -> None:
    state = model.state_dict()
    state["encoder.subsampling.out.weight"] = torch.zeros(1).expand(10**6, 10**6)
    own: dict[str, Any] = {"state_dict": state}
    model.on_save_checkpoint(own)
    torch.save(own, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="share storage"):
        read_checkpoint(tmp_path / "a.ckpt")
    write_checkpoint(model, tmp_path / "b.ckpt")
    with zipfile.ZipFile(tmp_path / "b.ckpt") as old, zipfile.ZipFile(tmp_path / "c.ckpt", "w", 8) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member.filename))
    with pytest.raises(UserError, match="compressed"):
        read_checkpoint(tmp_path / "c.ckpt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("a.ckpt", b"<!DOCTYPE html><html>", "a web page"),
        ("a.ckpt", b"a: 1\n", "it is a text file"),
        ("a.ckpt", b"", "is empty"),
        ("a.ckpt", b"\x80\x02}q\x00.", "first bytes are not those of a checkpoint"),
        ("a.nemo", b"x", r"streamnest import-nemo"),
        ("a.onnx", b"x", r"streamnest stream"),
        ("a.wav", b"RIFF....WAVE", "an audio file"),
    ],
)
def test_other_files_are_refused_with_a_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / name)


def test_a_run_folder_stands_for_its_last_checkpoint(
    model: Pretraining, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(model, tmp_path / "run/checkpoints/step_1.ckpt")
    with pytest.raises(UserError, match=r"give a checkpoint in it, such as .*checkpoints/step_1\.ckpt"):
        load_model(tmp_path / "run")
    write_checkpoint(model, tmp_path / "run/checkpoints/last.ckpt")
    for _ in range(2):
        assert load_model(tmp_path / "run").config == model.config
    assert caplog.text.count("its checkpoint") == 1 and "last.ckpt is used" in caplog.text


def test_training_continues_from_the_newest_undamaged_checkpoint(
    model: Pretraining, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_checkpoint(model, tmp_path / "old.ckpt")
    os.utime(tmp_path / "old.ckpt", (1, 1))
    damaged = bytearray((tmp_path / "old.ckpt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "new.ckpt").write_bytes(damaged)
    (tmp_path / "gone.ckpt").symlink_to("nowhere")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path == tmp_path / "old.ckpt"
    assert "new.ckpt is not a valid checkpoint: the checksum of" in caplog.text


def test_training_continues_only_from_a_complete_training_state(model: Pretraining, tmp_path: Path) -> None:
    write_checkpoint(model, tmp_path / "a.ckpt")
    stored = StoredCheckpoint.read(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="use init_from instead"):
        check_training_state(stored, model)
    whole = {"epoch": 0, "pytorch-lightning_version": "2", "loops": {}, "callbacks": {}, "optimizer_states": [{}]}
    whole = {**stored.content, **whole, "lr_schedulers": [], "global_step": 3}
    check_training_state(StoredCheckpoint(stored.path, whole), model)
    with pytest.raises(UserError, match="global_step=-3 is not valid"):
        check_training_state(StoredCheckpoint(stored.path, {**whole, "global_step": -3}), model)
    with pytest.raises(UserError, match="loops=list is not valid"):
        check_training_state(StoredCheckpoint(stored.path, {**whole, "loops": []}), model)
    with pytest.raises(UserError, match="has no optimizer state"):
        check_training_state(StoredCheckpoint(stored.path, {**whole, "optimizer_states": []}), model)
    del whole["state_dict"]["encoder.subsampling.out.bias"]
    with pytest.raises(UserError, match=r"encoder\.subsampling\.out\.bias is missing"):
        check_training_state(StoredCheckpoint(stored.path, whole), model)


@pytest.mark.parametrize("change", [{"loops": {}}, {"optimizer_states": [{}]}, {"pytorch-lightning_version": "x"}])
def test_state_that_lightning_cannot_restore_is_a_user_error(change: dict[str, Any]) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    linear = torch.nn.Linear(2, 2)
    trainer.strategy._optimizers = [torch.optim.AdamW(linear.parameters())]
    connector = trainer._checkpoint_connector
    connector._loaded_checkpoint = change
    steps = {"loops": connector.restore_loops, "optimizer_states": connector.restore_optimizers}
    restore = steps.get(next(iter(change)), lambda: connector._restore_modules_and_callbacks("a.ckpt", True))
    with pytest.raises(UserError, match=r"a\.ckpt: its training state is not valid \(\w+"), restoring(Path("a.ckpt")):
        restore()
    trainer.fit_loop._combined_loader = SimpleNamespace(_load_state_dicts=lambda states: states[0]["x"])
    trainer.fit_loop._combined_loader_states_to_load, trainer.fit_loop._restarting = [{}], True
    with pytest.raises(UserError, match="is not valid"), restoring(Path("a.ckpt")):
        trainer.fit_loop._load_combined_loader_states()
    with pytest.raises(ZeroDivisionError), restoring(Path("a.ckpt")):
        print(1 / 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o, s: o["state"][0].update(exp_avg=torch.zeros(3)), "does not fit this model"),
        (lambda o, s: o["state"][0].update(exp_avg_sq=5), "does not fit this model"),
        (lambda o, s: o["state"][0].pop("exp_avg"), "does not fit this model"),
        (lambda o, s: o["param_groups"][0].update(lr="x"), "settings of its optimizer"),
        (lambda o, s: o["param_groups"][0].update(betas=(0.9, 1.5)), "settings of its optimizer"),
        (lambda o, s: o["param_groups"][0].update(maximize=True), "settings of its optimizer"),
        (lambda o, s: s.update(base_lrs=["x"]), "state of its schedule"),
        (lambda o, s: s.update(last_epoch=-7), "state of its schedule"),
    ],
)
def test_a_state_of_another_optimizer_is_refused(model: Pretraining, change: Any, words: str) -> None:
    linear = torch.nn.Linear(4, 4)
    build = Optimization("constant", 1.0, 0.0, 1, 10, 4, [0.9, 0.98], 0.0).build
    optimizer, schedule = build(linear)
    linear(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    schedule.step()
    configs = [SimpleNamespace(scheduler=schedule)]
    model._trainer = SimpleNamespace(ckpt_path="a.ckpt", optimizers=[optimizer], lr_scheduler_configs=configs)
    model.on_train_start()
    states = optimizer.state_dict(), schedule.state_dict()
    change(*states)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    with pytest.raises(UserError, match=rf"a\.ckpt: the .*{words}"):
        model.on_train_start()


def test_labels_and_heads_larger_than_the_weights_allocate_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamnest.checkpoint.loading.build_model", lambda *_, **__: pytest.fail("built"))
    for task, key in (("speaker", "embedding_size"), ("rnnt", "joiner_dim")):
        stored = torch.load(STORED / f"{task}.ckpt", weights_only=True)
        stored["streamnest"]["config"]["task"][key] = 8192
        torch.save(stored, tmp_path / "a.ckpt")
        with pytest.raises(UserError, match="weights and config do not belong together"):
            load_model(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "labels", [None, 5, {"kind": "char", "symbols": 5}, {"kind": "char", "symbols": ["a", "\x1b"]}]
)
def test_invalid_labels_are_refused(tmp_path: Path, labels: Any) -> None:
    torch.save({"state_dict": {}, "streamnest": {"config": {"task": "ctc"}, "labels": labels}}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: the labels of task=ctc are not valid"):
        stored_labels(StoredCheckpoint.read(tmp_path / "a.ckpt"), "ctc")
    assert stored_labels(StoredCheckpoint.read(tmp_path / "a.ckpt"), "pretrain") is None


@dataclass
class WideConfig(EncoderConfig):
    """Arguments of an encoder of the user."""

    extra: int = 0


def wide(extra: int, **settings: Any) -> FastConformer:
    return FastConformer.build(**settings)


def test_a_class_of_the_user_loads_once_it_is_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALLOWED, "encoder", dict(ALLOWED["encoder"]))
    rewrite(folder, lambda config: config["encoder"].update(_target_=f"{__name__}.wide", extra=1))
    with pytest.raises(UserError, match=r"streamnest\.allow_class\('encoder'"):
        load_model(folder)
    streamnest.allow_class("encoder", wide, WideConfig)
    assert len(load_model(folder).encoder.layers) == 1


def test_a_stored_config_keeps_no_foreign_class_of_its_history() -> None:
    strategy = {"_target_": "lightning.pytorch.strategies.DDPStrategy", "static_graph": True}
    config = {"trainer": {"_target_": "lightning.Trainer", "strategy": strategy}, "note": 1}
    kept = storable(config)
    assert kept == {"trainer": {"_target_": "lightning.Trainer", "strategy": strategy["_target_"]}}
