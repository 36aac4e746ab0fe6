"""TensorBoard and MLflow: metrics and plots are logged if the package is installed; otherwise the extra is named."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from streamnest.errors import UserError
from streamnest.loggers import csv_logger, mlflow_logger, optional, tensorboard_logger
from streamnest.loggers.media import Media, log_media


@pytest.fixture
def media(tmp_path: Path) -> Media:
    matplotlib.image.imsave(tmp_path / "a.png", np.zeros((4, 4, 3)))
    return Media(7, {"prediction": tmp_path / "a.png"}, np.ones(4, np.float32), {"audio/clean": np.zeros(160)}, 16000)


@pytest.mark.parametrize(("package", "build"), [("mlflow", mlflow_logger), ("tensorboard", tensorboard_logger)])
def test_a_missing_package_is_refused_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, build: object
) -> None:
    monkeypatch.setattr(optional.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"logger={package} .*pip install -e '\.\[{package}\]'"):
        build(str(tmp_path))  # type: ignore[operator]


def test_tensorboard_receives_metrics_plots_and_audio(tmp_path: Path, media: Media) -> None:
    pytest.importorskip("tensorboard", reason="pip install -e '.[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = tensorboard_logger(str(tmp_path))
    logger.log_metrics({"val/loss": 1.5}, step=7)
    log_media(logger, media)
    logger.finalize("success")
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert found.Scalars("val/loss")[0].value == 1.5
    assert found.Images("plots/prediction")[0].step == 7 and found.Tags()["audio"] == ["audio/clean"]


def test_mlflow_receives_metrics_and_plots(tmp_path: Path, media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = mlflow_logger(str(tmp_path), tracking_uri=(tmp_path / "runs").as_uri(), experiment_name="e")
    logger.log_metrics({"val/loss": 1.5}, step=7)
    log_media(logger, media)
    logger.finalize("success")
    run = logger.experiment.get_run(logger.run_id)
    assert run.data.metrics["val/loss"] == 1.5
    assert [one.path for one in logger.experiment.list_artifacts(logger.run_id, "plots")] == ["plots/a.png"]


def test_a_failing_mlflow_server_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = optional.UnfailingMLFlowLogger.__new__(optional.UnfailingMLFlowLogger)
    monkeypatch.setattr(optional.MLFlowLogger, "log_metrics", lambda *_: 1 / 0)
    for step in range(3):
        logger.log_metrics({"a": 1.0}, step)
    assert caplog.text.count("division by zero; training continues") == 1


def test_a_failure_to_send_plots_is_reported(media: Media, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard", reason="pip install -e '.[tensorboard]'")
    log_media(tensorboard_logger("/dev/null/x"), media)
    assert "plots of step 7 were not sent to TensorBoardLogger" in caplog.text


def test_a_logger_without_images_is_left_alone(tmp_path: Path, media: Media) -> None:
    log_media(csv_logger(str(tmp_path)), media)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
