"""Errors of Hydra, OmegaConf and Lightning that a user can fix, as one sentence each."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from streamnest.errors import UserError

# Settings of similar repositories, and what takes their place here.
_ELSEWHERE = {
    "logger=tensorboard": "there is no TensorBoard here: logger=csv writes numbers, logger=offline also a W&B run",
    "test": "there is no test stage: validation runs while training, and scripts/ has what evaluates a checkpoint",
    "train": "train.py always trains: scripts/ has what evaluates a checkpoint",
    "compile": "models are not compiled: leave it out",
    "hparams_search": "a search is python train.py -m sweep=optuna",
    "model": "a model is given by the groups size, encoder, masking, quantizer and objective",
    "extras": "there is no group extras: give tags=[...], threads=N or logger=none directly",
    "task_name": "give name=NAME, or run_id=NAME for the folder of the run",
    "optim.learning_rate": "the learning rate is optim.lr",
    "trainer.min_epochs": "runs are measured in updates: give trainer.max_steps",
}
_PARSED = "values with spaces or any of =,(){}[]:#$'\" are quoted for Hydra and for the shell: 'KEY=\"VALUE\"'"
# What a file system says that is full, broken or not ours.
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_OF_DISK |= {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

# How a message of Hydra's about a composition begins, and what is said instead, with what it is about.
_COMPOSITION = {
    r"Ambiguous value for argument '(.*)'": "{0} gives several values: python train.py -m starts a run for each; "
    "a list is written KEY=[A,B], and a comma in a value is quoted: 'KEY=\"A,B\"'",
    r"Could not append to config. An item is already at '(.*)'": "{0} exists: change it by {0}=VALUE, without +",
    r"Multiple values for ([^.]*)\.": "{0} is given already: give it once and without +, {0}=CHOICE",
    r"Could not delete from config. '(.*)' does not": "~{0}: there is no such key to drop: --cfg job prints all keys",
    r"Could not override '(.*?)'": "{0}: there is no such key or group: --help lists groups, --cfg job prints keys",
}


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Raises a `UserError` in place of an error that is a user's mistake; all others stay as they are."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def explain(error: BaseException) -> str | None:
    """The sentence for an error, or None for one that is not a user's mistake."""
    for kind, words in _SENTENCES:
        if isinstance(error, kind):
            return words(error)
    if _is_lightnings(error) or str(error).startswith("Config group override must be"):
        return _flat(str(error))
    return None


def nearest(word: str, choices: Iterable[str]) -> str:
    """`did you mean lookahead40? Choose one of ...`, with the nearest choice first if there is one."""
    known = sorted(str(choice) for choice in choices)
    by_case = {choice.lower(): choice for choice in known}
    found = [by_case[name] for name in difflib.get_close_matches(word.lower(), by_case, 1, 0.6)]
    listed = f"hoose one of {', '.join(known)}"
    return f"did you mean {found[0]}? C{listed}" if found else f"c{listed}"


def unknown_choice(group: str, value: str, choices: Iterable[str]) -> str:
    """The sentence for a choice that its group does not have; schemas are not choices."""
    elsewhere = _ELSEWHERE.get(f"{group}={value}")
    if elsewhere:
        return f"{group}={value}: {elsewhere}"
    known = [name for name in choices if not name.startswith("base_")]
    if group in ("hydra/launcher", "hydra/sweeper"):
        return f"{group}={value}: no such choice: {nearest(value, known)}; others need pip install -e '.[sweeps]'"
    if not known:
        return (
            f"{group}={value}: the group {group} has no choices here; configs/{group}/{value or 'NAME'}.yaml makes one"
        )
    return f"{group}={value}: no such choice: {nearest(value, known)}"


def _missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return _flat(str(error).partition("Config search path")[0])
    return unknown_choice(group, name, error.options)


def _unparsed(error: OverrideParseException) -> str:
    word = error.override
    if "=" not in word:
        return f"{word}: an override is written KEY=VALUE, without spaces around the equals sign"
    return f"{word}: this override cannot be read: {_PARSED}"


def _composition(error: HydraException) -> str:
    cause, text = error.__cause__, str(error)
    if isinstance(cause, OmegaConfBaseException):
        return _value(cause, text.partition("Error merging override ")[2] or text.rpartition("use +")[2])
    for pattern, sentence in _COMPOSITION.items():
        if match := re.match(pattern, text):
            return sentence.format(match[1] or "=")
    return _flat(text)


def _value(error: OmegaConfBaseException, override: str = "") -> str:
    """An error about one key: one that does not exist, one without a value, or a value of the wrong type."""
    key = str(error.full_key or error.key or "")
    shown = override or key
    if isinstance(error, MissingMandatoryValue):
        return f"{key or _flat(str(error))} has no value: give {key or 'KEY'}=VALUE"
    if isinstance(error, ValidationError):
        return f"{shown}: {_flat(str(error).partition('full_key')[0])}".replace("..", ".").rstrip(".")
    if isinstance(error.parent_node, DictConfig) and re.search(r"[Kk]ey '.*' (not in|is not in)", str(error)):
        return _unknown_key(key, override, error.parent_node)
    return f"{shown}: {_flat(str(error).partition('full_key')[0])}" if shown else _flat(str(error))


def _unknown_key(key: str, override: str, parent: DictConfig) -> str:
    """The sentence for a key that does not exist, with those beside it, or of its name elsewhere."""
    if key in _ELSEWHERE:
        return f"{override or key}: {_ELSEWHERE[key]}"
    folder, _, name = key.rpartition(".")
    what = f"{override or key}: there is no such key" + ("" if folder else " or group")
    known = [str(other) for other in parent if str(other) not in ("hydra", "_target_")]
    root: Any = parent._get_root()
    elsewhere = [
        f"{group}.{name}" for group in root if isinstance(root._get_node(group), DictConfig) and name in root[group]
    ]
    if elsewhere:
        return f"{what}: did you mean {' or '.join(elsewhere)}?"
    return f"{what}{' in ' + folder if folder else ''}: {nearest(name, known) if known else 'nothing is there'}"


def _instantiation(error: InstantiationException) -> str | None:
    """A wrapped error; one that Python raises for a defect is none of the user's."""
    cause = error.__cause__
    if cause is None:
        return _flat(str(error))
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
    if isinstance(cause, TypeError) and unexpected:
        where = re.search(r"full_key: ([\w.]+)", str(error))
        return f"{where[1] + '.' if where else ''}{unexpected[1]}: there is no such argument: leave it out"
    if isinstance(cause, (ImportError, AttributeError)) and "locat" in str(error):
        return _flat(str(error).partition(", set env var")[0])
    if isinstance(cause, (UserError, OmegaConfBaseException)) or _is_lightnings(cause):
        return explain(cause)
    # The trainer checks its own arguments.
    of_trainer = "lightning.pytorch.trainer" in str(error) and isinstance(cause, (TypeError, ValueError))
    return f"trainer: {_flat(str(cause))}" if of_trainer else None


def _is_lightnings(error: BaseException) -> bool:
    """True for the error that Lightning raises for settings; by name, as importing Lightning takes seconds."""
    return type(error).__name__ == "MisconfigurationException"


def _disk(error: OSError) -> str | None:
    """Describes an error of a disk, with the path; other system errors are defects."""
    if error.filename is None:
        return None
    if error.errno == errno.ENOENT:
        return f"{error.filename}: {error.strerror}: check the path"
    if error.errno not in _OF_DISK:
        return None
    return f"{error.filename}: {error.strerror}: free space, or write elsewhere with paths.log_dir or STREAMNEST_LOGS"


def _flat(text: str) -> str:
    """A message of several lines as one, without links to manuals of libraries."""
    kept = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("See http")]
    return " ".join(kept)


# The first kind that an error is of has its sentence.
_SENTENCES: tuple[tuple[type[BaseException], Callable[[Any], str | None]], ...] = (
    (UserError, str),
    (InstantiationException, _instantiation),
    (MissingConfigException, _missing),
    (OverrideParseException, _unparsed),
    (HydraException, _composition),
    (OmegaConfBaseException, _value),
    (YAMLError, lambda error: _flat(str(error))),
    (OSError, _disk),
)
