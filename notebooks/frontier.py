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
# What every millisecond of look-ahead buys, from a finished `streamnest frontier`. The notebook reads the
# newest `frontier.json` below `logs/`, or the one that `STREAMNEST_FRONTIER` names. **Without any it shows a small
# example with made-up numbers**, and every title says so.

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from streamnest.frontier.effects import draw_delays, draw_effects
from streamnest.frontier.plots import draw_frontier, draw_labels
from streamnest.frontier.report import note
from streamnest.frontier.stored_results import read_report
from streamnest.frontier.tables import main_table
from streamnest.reporting.notebook import find_frontier, repository

path, made_up = find_frontier(repository())
report = read_report(path)
warning = "MADE-UP NUMBERS: " if made_up else ""
hours = max(p.train_hours for p in report.largest)
print(warning, path)

# %% [markdown]
# ## The frontier
# A point is a recogniser: to the left it answers sooner, further down it makes fewer errors. Bars are 95 % intervals:
# two points whose bars overlap widely were not told apart. The gap between the lines is what pretraining brings.
# Behind the dotted line stands what hears the whole utterance.

# %%
display(draw_frontier(report.largest, f"{warning}Quality against latency", note(report, hours)))

# %% [markdown]
# ## In figures
# Rates in %, with intervals. Compute is what a chunk of one stream took on the machine of the evaluation.

# %%
display(Markdown(f"{warning}\n\n{main_table(report)}"))

# %% [markdown]
# ## What pretraining and streaming change
# Left: errors with pretraining relative to those from scratch, paired over the same utterances and seeds, which is
# surer than comparing bars of the first picture. An interval that crosses 0 is no proof of either. Right: errors
# relative to the offline encoder that was trained alike.

# %%
display(draw_effects(report.largest, f"{warning}Differences", note(report, hours)))

# %% [markdown]
# ## What a listener waits for
# Waiting for audio, which no machine shortens, and computing, which a faster one does. The number is the mean latency
# and the usual (p50) time of computing a chunk; the line reaches to what one chunk in a hundred takes.

# %%
display(draw_delays(report.largest, f"{warning}What a listener waits for, on average"))

# %% [markdown]
# ## With fewer labels
# Pretraining should help most where little speech is transcribed: the lines should part to the left.

# %%
if len(report.budgets) > 1:
    display(draw_labels(report.points, f"{warning}Quality against labels", note(report)))
