"""Assignment of pieces to train and dev, for corpora without these parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from streamnest.data.recipes.piece import Piece
from streamnest.errors import UserError
from streamnest.randomness import hash_id


def assign_parts(pieces: Sequence[Piece], dev_share: float) -> list[Piece]:
    """Assigns every piece without a part to `train` or `dev`.

    All audio of a speaker goes to one part; if speakers are unknown, all of a recording does. The split is a hash of
    the name: identical everywhere, stable when data is added. If it would leave `dev` empty, the name with the lowest
    hash goes there, as long as another one stays in `train`; likewise for `train`.

    Args:
        pieces: pieces in any order, which is kept.
        dev_share: expected share of speakers (or recordings) in `dev`; 0 puts all into `train`.

    Raises:
        UserError: for a share outside [0, 1).
    """
    check_share(dev_share)
    hashes = {name: hash_id(name) % 2**32 / 2**32 for piece in pieces if piece.part is None for name in [_group(piece)]}
    ordered = sorted(hashes, key=lambda name: (hashes[name], name))
    count = sum(value < dev_share for value in hashes.values())
    if dev_share and len(ordered) > 1 and not any(piece.part == "dev" for piece in pieces):
        count = min(max(count, 1), len(ordered) - 1)
    dev = set(ordered[:count])
    return [
        piece if piece.part else replace(piece, part="dev" if _group(piece) in dev else "train") for piece in pieces
    ]


def check_share(dev_share: float) -> None:
    """Raises UserError for a share outside [0, 1)."""
    if not 0 <= dev_share < 1:
        raise UserError(f"dev_share={dev_share}: need 0 <= share < 1")


def _group(piece: Piece) -> str:
    # The name of the file and not its path, so that the split stays the same when the corpus is moved.
    return f"speaker {piece.speaker}" if piece.speaker else f"recording {piece.path.parent.name}/{piece.path.name}"
