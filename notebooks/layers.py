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
# # Information in each layer
#
# Linear probes predict phones, characters and speakers from each layer of the frozen encoder. The same encoder with
# random weights is the baseline: its accuracy comes from the input and the architecture, not from training.
#
# The checkpoint is the newest below `logs/`, or `STREAMNEST_CKPT`; without any, both encoders are untrained. Speech
# is the built-in sample; to use other speech, set `STREAMNEST_MANIFEST` and `STREAMNEST_PHONES` (the format of
# `streamnest probe`).

# %%
# %matplotlib inline
import warnings

# Progress bars need no widgets here.
warnings.filterwarnings("ignore", message="IProgress not found|install .ipywidgets")

import torch
from IPython.display import Markdown, display

from streamnest.code_usage import spectrum
from streamnest.formatting import markdown_table
from streamnest.probing.encoded import choose, encode_utterances, layer_names
from streamnest.probing.layerwise import SILENCE, probe_encoded
from streamnest.probing.linear_probe import similarity, spaced
from streamnest.probing.phone_labels import phone_classes
from streamnest.probing.plots import plot_probes, plot_similarity, plot_spectra
from streamnest.reporting.notebook import how_many, labeled_speech, open_subject, repository, twin

UTTERANCES = how_many(70)  # with phones, and as many without
CLUSTERS = 50  # of k-means

root = repository()
subject = open_subject(root)
models = {subject.name: subject.model, "random weights": twin(subject.model, trained=False)}
utterances = choose(labeled_speech(root), UTTERANCES, seed=0)
classes = phone_classes(utterances, SILENCE)
encoded = {name: encode_utterances(model, utterances, classes) for name, model in models.items()}
layers = layer_names(encoded[subject.name])

# %% [markdown]
# ## Probes
# Each curve goes from the input on the left to the last layer. A rising phone accuracy means that the encoder separates
# phones better; a falling one means that the information was lost or is no longer linearly separable. For characters
# the plot shows the error rate. The effective rank counts the directions that frames use. The lines below the plot
# state the size of the test sets; with few speakers or utterances, small differences mean nothing.

# %%
found = {name: probe_encoded(encoded[name], len(classes), CLUSTERS) for name in encoded}
display(plot_probes({name: figures for name, (figures, _) in found.items()}, "Linear probes of each layer"))
print(*found[subject.name][1], sep="\n")

# %%
figures = found[subject.name][0]
cells = [(f.phones, f.cer, f.speakers, f.rank, f.silhouette, f.phone_information) for f in figures]
lines = [[f.layer, *("–" if v is None else f"{v:.3g}" for v in row)] for f, row in zip(figures, cells, strict=True)]
columns = ["layer", "phones", "CER", "speakers", "rank", "silhouette", "phones in clusters"]
display(Markdown(markdown_table(columns, lines)))

# %% [markdown]
# ## Directions
# The singular values behind the effective rank, in decreasing order. A line that falls steeply has collapsed into a few
# directions.

# %%
frames = {
    name: [spaced(torch.cat(x)) for x in zip(*(h.layers for h in encoded[name]), strict=True)] for name in encoded
}
spectra = {name: {layer: spectrum(x) for layer, x in zip(layers, frames[name], strict=True)} for name in frames}
display(plot_spectra(spectra, "Singular values of each layer"))

# %% [markdown]
# ## Similarity of layers
# 1 means equal up to rotation and scale. With random weights, all layers resemble the input; training shows in layers
# that differ from it.

# %%
similarities = {name: similarity(x) for name, x in frames.items()}
display(plot_similarity(similarities, layers, "Similarity of layers"))
