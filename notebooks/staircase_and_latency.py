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
# # Look-ahead and latency of a checkpoint
#
# A streaming encoder must not see future audio. This notebook plots which output depends on which input, compares the
# measured look-ahead with the declared one, and shows the latency of each sample.
#
# It loads the newest checkpoint of pretraining below `logs/`, or `STREAMNEST_CKPT`; without any, it makes an untrained
# model. The look-ahead does not depend on training.

# %%
# %matplotlib inline
import warnings

# Progress bars need no widgets here.
warnings.filterwarnings("ignore", message="IProgress not found|install .ipywidgets")

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
# Rows are outputs, columns inputs. Color shows how much an output changes with an input; white is unchanged. Right of
# the dashed line, there must be nothing but the look-ahead that the preset declares.

# %%
title = f"Receptive field of each output frame: look-ahead {milliseconds(latency.lookahead_ms)}"
display(plot_staircase(Prober(model).staircase(), title))

# %% [markdown]
# ## The same with a leak
# The same weights with symmetrically padded convolutions, as is usual for offline encoders. Each layer looks ahead a
# little, which adds up over layers: color extends far beyond the dashed line. streamnest refuses to train such a model
# without `encoder.allow_future_leak=true`.

# %%
leaky = twin(model, {"conv_padding": "symmetric", "allow_future_leak": True})
title = f"Receptive field with symmetric convolutions: look-ahead {milliseconds(leaky.latency.lookahead_ms)}"
display(plot_staircase(Prober(leaky).staircase(), title))

# %% [markdown]
# ## The certificate
# The checks of `streamnest verify`: look-ahead measured by perturbing the audio sample by sample, streamed against
# offline output, and independence of padding and of other utterances in the batch.

# %%
certificate = verify(model)
lines = [(c.name, c.declared, c.measured, "pass" if c.passed else "**FAIL**") for c in certificate.checks]
display(Markdown(markdown_table(["check", "declared", "measured", ""], lines)))

# %% [markdown]
# ## Influence of the past
# How much an output depends on earlier input, for a few seconds of noise. The present is on the right, the past on the
# left, look-ahead beyond 0. A steep decrease means that little of the past is used; with a limited left context the
# line ends.

# %%
display(plot_influence_by_age(Prober(model).staircase(first=120, count=24), "Influence of past input on an output"))

# %% [markdown]
# ## Latency of each sample
# The first sample of a chunk waits for the rest of the chunk and the end of the analysis window, the last one only for
# the window. The mean is the delay of live captions; the maximum bounds the response time. Compute time is extra.

# %%
delays = emission_delays(model.encoder, model.frontend, model.input_norm.causal)
if latency.streams:
    title = f"Algorithmic latency of each sample: {subject.name}"
    display(plot_waits(delays, latency.frame_ms, title, chunks=max(2, 8 // len(delays))))

# %% [markdown]
# ## All presets
# Mean and worst latency; the checkpoint is in bold.

# %%
presets = preset_latencies(root / "configs", [f"encoder.subsampling_factor={model.encoder.subsampling.factor}"])
display(plot_latencies({**presets, subject.name: latency}, own=subject.name))
