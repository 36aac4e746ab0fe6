"""Lhotse Shar with an index for random access, so that shards give the same batches as files."""
