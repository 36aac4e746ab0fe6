"""Counts utterances that are skipped during training, and stops a run that skips too many."""

from __future__ import annotations

from collections import Counter

from streamnest.data.batch import Batch
from streamnest.errors import UserError

# Number of utterances before the share of unreadable ones means anything.
_ENOUGH = 200


class SkipCounter:
    """Counts utterances that could not be read, each time they occur in a batch.

    Args:
        max_share: maximum share of skipped utterances.

    Attributes:
        causes: number of skipped utterances by cause.
        due: number of utterances of all batches, skipped ones included.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share, self.due = max_share, 0
        self.causes: Counter[str] = Counter()

    def add(self, batch: Batch) -> None:
        """Counts the utterances of a batch.

        Raises:
            UserError: if the share of skipped utterances exceeds the maximum.
        """
        self.causes.update(batch.skipped)
        self.due += len(batch.ids) + sum(batch.skipped.values()) if batch.due is None else batch.due
        skipped = sum(self.causes.values())
        if self.due >= _ENOUGH and skipped > self.max_share * self.due:
            causes = ", ".join(f"{count} {cause}" for cause, count in self.causes.most_common())
            raise UserError(
                f"{skipped} of {self.due} utterances could not be read ({causes}), which is more than "
                f"data.max_skipped_share={self.max_share:g}; the log names the files"
            )
