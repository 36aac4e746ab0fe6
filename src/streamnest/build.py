"""From a composed config to objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from streamnest.errors import UserError
from streamnest.pretraining import Pretraining


def build_model(cfg: DictConfig, *, training: bool = True) -> Pretraining:
    """Builds the model a config describes.

    Args:
        cfg: the composed config.
        training: with optimiser and schedule.

    Raises:
        UserError: for values that do not fit.
    """
    quantizer = {k: v for k, v in cfg.quantizer.items() if k != "normalize"}
    with user_errors():
        return Pretraining(
            frontend=instantiate(cfg.frontend),
            encoder=instantiate(cfg.encoder),
            masking=instantiate(cfg.masking),
            quantizer=instantiate(quantizer),
            objective=instantiate(cfg.objective),
            optimization=instantiate(cfg.optim) if training else None,
            target_normalize=cfg.quantizer.normalize,
            seed=cfg.seed,
            config=plain(cfg),
        )


def build_all(nodes: DictConfig) -> list[Any]:
    """Instantiates the entries of a group that is a mapping of names to objects, such as callbacks."""
    with user_errors():
        return [instantiate(node) for node in nodes.values() if node is not None and "_target_" in node]


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain containers, resolved as far as it can be without a Hydra run; safe to load weights-only."""
    kept = [str(key) for key in cfg if key not in ("logger", "callbacks", "paths")]
    return {k: OmegaConf.to_container(cfg[k], resolve=True) if OmegaConf.is_config(cfg[k]) else cfg[k] for k in kept}


@contextmanager
def user_errors() -> Iterator[None]:
    """Lets a `UserError` out of Hydra's wrapping, which would hide it in a trace."""
    try:
        yield
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
