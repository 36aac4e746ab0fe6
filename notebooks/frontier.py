# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # Quality against latency
#
# How the error rate depends on the look-ahead, from a finished `streamnest frontier`. The notebook reads the newest
# `frontier.json` below `logs/`, or the one that `STREAMNEST_FRONTIER` names; without any, the published results of
# `docs/RESULTS.md`.

# %%
# %matplotlib inline
import warnings

# Progress bars need no widgets here.
warnings.filterwarnings("ignore", message="IProgress not found|install .ipywidgets")

from IPython.display import Markdown, display

from streamnest.frontier.effects import plot_delays, plot_effects
from streamnest.frontier.plots import plot_frontier, plot_labels
from streamnest.frontier.report import note
from streamnest.frontier.stored_results import read_report
from streamnest.frontier.tables.markdown import main_table
from streamnest.reporting.notebook import find_frontier, published, repository

root = repository()
path = find_frontier(root)
report = read_report(path)
hours = max(p.train_hours for p in report.largest)
print(path.relative_to(root) if path.is_relative_to(root) else path)

# %% [markdown]
# ## The frontier
# Each point is a recognizer: latency grows to the right, and lower is better. Bars are 95 % intervals; if those of two
# points overlap widely, no difference was shown. The gap between the lines is the effect of pretraining. Encoders that
# need the whole utterance stand right of the dotted line.

# %%
display(plot_frontier(report.largest, "Quality against latency", note(report, hours)))

# %% [markdown]
# ## As a table
# Rates in %, with intervals. Compute is the time for a chunk of one stream on the machine of the evaluation.

# %%
display(Markdown(main_table(report)))

# %% [markdown]
# ## Effect of pretraining and of streaming
# Left: change of errors by pretraining relative to training from scratch, paired over the same utterances and seeds,
# which is more sensitive than comparing the bars of the first plot. An interval that includes 0 shows no effect. Right:
# change of errors relative to the offline encoder with the same training.

# %%
display(plot_effects(report.largest, "Effect of pretraining and cost of streaming", note(report, hours)))

# %% [markdown]
# ## Latency with compute time
# Algorithmic latency, which a faster machine does not shorten, and compute time, which it does. The number is the mean
# latency plus the median (p50) compute time of a chunk; the line extends to the 99th percentile. The published results
# have no compute times.

# %%
if any(point.compute for point in report.largest):
    display(plot_delays(report.largest, "Mean latency with compute time"))

# %% [markdown]
# ## With fewer labels
# Error rate by the amount of transcribed speech. If pretraining helps most with few labels, the lines diverge to the
# left.

# %%
budgets = report if len(report.budgets) > 1 else read_report(published(root, "labels"))
display(plot_labels(budgets.points, "Quality against labels", note(budgets)))
