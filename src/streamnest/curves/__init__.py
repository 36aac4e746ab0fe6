"""Learning curves: a validation metric over the hours of audio that training has consumed."""

from streamnest.curves.curve import LearningCurve, trend
from streamnest.curves.plots import plot_curve_grid, plot_curves, plot_run

__all__ = ["LearningCurve", "plot_curve_grid", "plot_curves", "plot_run", "trend"]
