"""Pretraining: prediction of codes of clean audio from masked, noisy audio."""

from streamnest.pretraining.module import Pretraining

__all__ = ["Pretraining"]
