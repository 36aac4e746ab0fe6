"""Part `loader`: speed of the data loader alone, beside the rate of training on the device."""

from __future__ import annotations

import tempfile
from pathlib import Path

from loader import make_corpora, read

from accelerator_parts.results import PartResult
from accelerator_parts.settings import Budget, Settings


def run(settings: Settings, budget: Budget, result: PartResult, needed_rate: float | None) -> None:
    """Reads the built-in corpus with noise, from each form of storage."""
    result.title = "batches of 64 s with noise, built-in corpus"
    result.notes.append("The corpus fits into the file cache: this measures decoding and mixing, not the disk.")
    if needed_rate is None:
        result.notes.append("The part `step` gave no rate of training to compare with.")
    elif settings.small:
        result.notes.append("The rate of training is that of the small model.")
    with tempfile.TemporaryDirectory() as folder:
        corpora = make_corpora(Path(folder), list(settings.corpora))
        for done, (form, manifest) in enumerate(corpora.items()):
            if not budget.allows(result, form):
                continue
            # Starting the workers takes about as long as reading.
            seconds = max(1.0, min(5.0, budget.left / (len(corpora) - done) / 2))
            rate = read(manifest, settings.workers, seconds)
            result.rows.append(
                {
                    "form": form,
                    "workers": settings.workers,
                    "audio h per h": rate,
                    "needed by training": needed_rate,
                    "sufficient": None if needed_rate is None else rate >= needed_rate,
                }
            )
