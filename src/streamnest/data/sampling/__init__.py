"""Assignment of utterances to batches as a pure function of (seed, epoch, position).

This package and `streamnest.data.shards` are needed until Lhotse 2 is released; then, most of both can go. The alpha
versions of Lhotse 2 resume in O(1) natively, but they need `.idx` files beside uncompressed `.jsonl` and `.tar` files
and the same number of workers, and their state grows with the shuffle buffer.
"""
