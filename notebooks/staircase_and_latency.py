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
# # How far a checkpoint looks ahead, and how long one waits for it
#
# A streaming encoder may not hear the future, and this can be seen: which output depends on which input is a
# staircase. This notebook draws it, holds what is measured against what is declared, and shows what a sample of audio
# waits for.
#
# It takes the newest checkpoint of pretraining below `logs/`, or the one named in `STREAMNEST_CKPT`; without any, an
# untrained model. The look-ahead does not depend on training.

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from streamnest.config.presets import preset_latencies
from streamnest.formatting import markdown_table, milliseconds
from streamnest.latency import emission_delays
from streamnest.reporting.notebook import open_subject, repository, twin
from streamnest.streaming.certificate import verify
from streamnest.streaming.plots import plot_influence_by_age, plot_latencies, plot_staircase, plot_waits
from streamnest.streaming.receptive_field import Prober

root = repository()
subject = open_subject(root)
model, latency = subject.model, subject.model.latency
print(f"{subject.name}: look-ahead {milliseconds(latency.lookahead_ms)}, chunk {milliseconds(latency.chunk_ms)}")

# %% [markdown]
# ## The staircase
# A row is an output, a column an input. Colour is how much the output changes with the input, white is not at all.
# Nothing may stand to the right of the dashed line but the look-ahead that the preset declares.

# %%
title = f"What each output hears: look-ahead {milliseconds(latency.lookahead_ms)}"
display(plot_staircase(Prober(model).staircase(), title))

# %% [markdown]
# ## The same with a leak
# The same weights, but convolutions are padded on both sides, as is usual for offline encoders. Each layer hears a
# little of the future, and layers add up: colour spills far over the dashed line. streamnest refuses to train this
# unless it is told to.

# %%
leaky = twin(model, {"conv_padding": "symmetric", "allow_future_leak": True})
title = f"With symmetric convolutions: look-ahead {milliseconds(leaky.latency.lookahead_ms)}"
display(plot_staircase(Prober(leaky).staircase(), title))

# %% [markdown]
# ## The certificate
# What `streamnest verify` prints: look-ahead found by changing the audio sample by sample, streamed against offline
# output, padding and neighbours in the batch.

# %%
certificate = verify(model)
lines = [(c.name, c.declared, c.measured, "pass" if c.passed else "**FAIL**") for c in certificate.checks]
display(Markdown(markdown_table(["check", "declared", "measured", ""], lines)))

# %% [markdown]
# ## How far back it listens
# How much an output depends on what was heard how long ago, for a few seconds of noise. The present is on the right,
# the past on the left, look-ahead beyond 0. A steep fall means that little of the past is used; with a limited left
# context the line ends.

# %%
display(plot_influence_by_age(Prober(model).staircase(first=120, count=24), "How much of the past an output uses"))

# %% [markdown]
# ## What a sample waits for
# The first sample of a chunk waits until the chunk is full and for the end of the analysis window, the last one only
# for the window. The mean is what captions lag behind; the worst is what a quick answer must wait for. Computing
# comes on top.

# %%
delays = emission_delays(model.encoder, model.frontend, model.input_norm.causal)
if latency.streams:
    title = f"{subject.name}: latency of each sample"
    display(plot_waits(delays, latency.frame_ms, title, chunks=max(2, 8 // len(delays))))

# %% [markdown]
# ## All presets
# Mean and worst latency, the checkpoint in bold.

# %%
presets = preset_latencies(root / "configs", [f"encoder.subsampling_factor={model.encoder.subsampling.factor}"])
display(plot_latencies({**presets, subject.name: latency}, own=subject.name))
