"""Corpora as published, and anything else that is audio on disk, to cut manifests."""
