"""Pretraining objectives: heads and losses. docs/OBJECTIVES.md has the formulas and compares them."""

from streamnest.objectives.base import Objective, ObjectiveConfig, PredictionContext, PredictionResult
from streamnest.objectives.masked import MaskedConfig, MaskedPrediction
from streamnest.objectives.mixed import MaskedAndNextToken, MaskedAndNextTokenConfig
from streamnest.objectives.next_token import NextTokenConfig, NextTokenPrediction

__all__ = [
    "MaskedAndNextToken",
    "MaskedAndNextTokenConfig",
    "MaskedConfig",
    "MaskedPrediction",
    "NextTokenConfig",
    "NextTokenPrediction",
    "Objective",
    "ObjectiveConfig",
    "PredictionContext",
    "PredictionResult",
]
