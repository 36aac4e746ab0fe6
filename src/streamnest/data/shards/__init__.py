"""Lhotse Shar with an index: archives that are read at random, so that shards give the batches that files give."""
