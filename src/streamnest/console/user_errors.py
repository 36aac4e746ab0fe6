"""Turns errors of Hydra, OmegaConf and Lightning that a user can fix into one sentence each."""

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

# Settings of similar repositories, and their equivalents here.
_ELSEWHERE = {
    "test": "there is no test stage: streamnest transcribe, diarize or probe evaluate the checkpoint on a test set",
    "train": "train.py always trains: streamnest transcribe, diarize or probe evaluate a checkpoint",
    "hparams_search": "use python train.py -m sweep=optuna for a search",
    "lr_find": "there is no learning-rate finder: python train.py -m sweep=optuna searches optim.lr",
    "model": "the groups size, encoder, masking, quantizer and objective define the model",
    "extras": "there is no group extras: give tags=[...], threads=N, print_config=true or logger=none directly",
    "task_name": "give name=NAME, or run_id=NAME for the folder of the run",
    "optim.learning_rate": "the learning rate is optim.lr",
    "trainer.min_epochs": "the length of a run is its number of updates: give trainer.max_steps",
}
_PARSED = "values with spaces or any of =,(){}[]:#$'\" need quotes for Hydra and for the shell: 'KEY=\"VALUE\"'"
# Errors of a file system that is full, broken or not accessible.
_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_OF_DISK |= {errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}

# Beginnings of Hydra's messages about a composition, and the sentences that replace them.
_COMPOSITION = {
    r"Ambiguous value for argument '(.*)'": "{0} has several values: python train.py -m starts a run for each; "
    "write a list as KEY=[A,B], and quote a comma in a value: 'KEY=\"A,B\"'",
    r"Could not append to config. An item is already at '(.*)'": "{0} exists: change it by {0}=VALUE, without +",
    r"Multiple values for ([^.]*)\.": "{0} is given already: give it once and without +, {0}=CHOICE",
    r"Could not delete from config. '(.*)' does not": "~{0}: there is no such key to drop: --cfg job prints all keys",
    r"Could not override '(.*?)'": "{0}: there is no such key or group: --help lists groups, --cfg job prints keys",
}


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Raises a `UserError` instead of an error that the user can fix; all others are raised unchanged."""
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
    """Returns the sentence for an error; None for an error that the user cannot fix."""
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence(error)
    if _is_lightnings(error) or str(error).startswith("Config group override must be"):
        return _flat(str(error))
    return None


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns `did you mean lookahead40? Choose one of ...`, without the question if no choice is similar."""
    known = sorted(str(choice) for choice in choices)
    by_case = {choice.lower(): choice for choice in known}
    similar = [by_case[name] for name in difflib.get_close_matches(word.lower(), by_case, 1, 0.6)]
    listed = f"hoose one of {', '.join(known)}"
    return f"did you mean {similar[0]}? C{listed}" if similar else f"c{listed}"


def unknown_choice(group: str, value: str, choices: Iterable[str]) -> str:
    """Returns the sentence for a choice that its group does not have; schemas are not choices."""
    elsewhere = _ELSEWHERE.get(f"{group}={value}")
    if elsewhere:
        return f"{group}={value}: {elsewhere}"
    known = [name for name in choices if not name.startswith("base_")]
    if group in ("hydra/launcher", "hydra/sweeper"):
        return f"{group}={value}: no such choice: {nearest(value, known)}; others need pip install -e '.[sweeps]'"
    if not known:
        return (
            f"{group}={value}: the group {group} has no choices here; configs/{group}/{value or 'NAME'}.yaml adds one"
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
        return f"{word}: write an override as KEY=VALUE, without spaces around the equals sign"
    return f"{word}: this override cannot be parsed: {_PARSED}"


def _composition(error: HydraException) -> str:
    cause, text = error.__cause__, str(error)
    if isinstance(cause, OmegaConfBaseException):
        return _value(cause, text.partition("Error merging override ")[2] or text.rpartition("use +")[2])
    for pattern, sentence in _COMPOSITION.items():
        if match := re.match(pattern, text):
            return sentence.format(match[1] or "=")
    return _flat(text)


def _value(error: OmegaConfBaseException, override: str = "") -> str:
    """Returns the sentence about a key that does not exist, has no value, or has a value of the wrong type."""
    key = str(error.full_key or error.key or "")
    shown = override or key
    if isinstance(error, MissingMandatoryValue):
        return f"{key or _flat(str(error))} has no value: give {key or 'KEY'}=VALUE"
    if isinstance(error, ValidationError) and "is not a subclass of" in str(error):
        return f"{shown}: {key} has keys of its own: give {key}.KEY=VALUE, or --cfg job to print them"
    if isinstance(error, ValidationError):
        return f"{shown}: {_flat(str(error).partition('full_key')[0])}".replace("..", ".").rstrip(".")
    if isinstance(error.parent_node, DictConfig) and re.search(r"[Kk]ey '.*' (not in|is not in)", str(error)):
        return _unknown_key(key, override, error.parent_node)
    return f"{shown}: {_flat(str(error).partition('full_key')[0])}" if shown else _flat(str(error))


def _unknown_key(key: str, override: str, parent: DictConfig) -> str:
    """Returns the sentence for a key that does not exist, with the keys of its node, or that name in other nodes."""
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
    """Returns the sentence for a wrapped error; None for an error that is a defect of the code."""
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
    """True for Lightning's error about settings; compared by name, because importing Lightning takes seconds."""
    return type(error).__name__ == "MisconfigurationException"


def _disk(error: OSError) -> str | None:
    """Describes an error of a file system, with the path; other system errors are defects of the code."""
    if error.filename is None:
        return None
    # If a file is renamed, the first name is that of its temporary part.
    path = error.filename2 or error.filename
    if error.errno == errno.ENOENT:
        return f"{path}: {error.strerror}: check the path"
    if error.errno not in _OF_DISK:
        return None
    return f"{path}: {error.strerror}: free space, or choose another path (for runs: paths.log_dir or STREAMNEST_LOGS)"


def _flat(text: str) -> str:
    """Joins the lines of a message, without links to manuals of libraries."""
    kept = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("See http")]
    return " ".join(kept)


# The first kind that matches an error is used.
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
