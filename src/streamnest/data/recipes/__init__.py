"""Conversion of published corpora, lists and folders of audio to cut manifests."""
