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
# # What each layer knows
#
# A straight line is asked to read phones, characters and speakers off each layer of the frozen encoder. Beside it
# stands the same encoder with random weights: what it can do comes from the input and the architecture, not from
# training.
#
# The checkpoint is the newest below `logs/`, or `STREAMNEST_CKPT`; without any, both encoders are untrained. Speech
# is the built-in sample; for other speech set `STREAMNEST_MANIFEST` and `STREAMNEST_PHONES` (the format of
# `streamnest probe`).

# %%
# %matplotlib inline
import torch
from IPython.display import Markdown, display

from streamnest.code_usage import spectrum
from streamnest.formatting import markdown_table
from streamnest.probing.encoded import choose, encode_utterances, layer_names
from streamnest.probing.layerwise import SILENCE, probe_encoded
from streamnest.probing.linear_probe import similarity, spaced
from streamnest.probing.phone_labels import phone_classes
from streamnest.probing.plots import plot_probes, plot_similarity, plot_spectra
from streamnest.reporting.notebook import how_many, labelled_speech, open_subject, repository, twin

UTTERANCES = how_many(70)  # with phones, and as many without
CLUSTERS = 50  # of k-means

root = repository()
subject = open_subject(root)
models = {subject.name: subject.model, "random weights": twin(subject.model, trained=False)}
utterances = choose(labelled_speech(root), UTTERANCES, seed=0)
classes = phone_classes(utterances, SILENCE)
encoded = {name: encode_utterances(model, utterances, classes) for name, model in models.items()}
layers = layer_names(encoded[subject.name])

# %% [markdown]
# ## Probes
# From left to right, a curve goes from the input to the last layer. A phone curve that rises means that training made
# sounds easier to tell apart. One that falls means that they were thrown away, or put where no straight line finds
# them; of characters the error rate is drawn, which falls where they become plainer. The rank counts the directions
# that frames really use. The lines below the picture say how much was tested on: of a few speakers and utterances, one
# step is one utterance and means little.

# %%
found = {name: probe_encoded(encoded[name], len(classes), CLUSTERS) for name in encoded}
display(plot_probes({name: figures for name, (figures, _) in found.items()}, "What each layer says"))
print(*found[subject.name][1], sep="\n")

# %%
figures = found[subject.name][0]
cells = [(f.phones, f.cer, f.speakers, f.rank, f.silhouette, f.phone_information) for f in figures]
lines = [[f.layer, *("–" if v is None else f"{v:.3g}" for v in row)] for f, row in zip(figures, cells, strict=True)]
columns = ["layer", "phones", "CER", "speakers", "rank", "silhouette", "phones in clusters"]
display(Markdown(markdown_table(columns, lines)))

# %% [markdown]
# ## Directions
# The same rank in more detail: how strong each direction of a layer is, the strongest first. A line that falls
# steeply has collapsed into a few of them.

# %%
frames = {
    name: [spaced(torch.cat(x)) for x in zip(*(h.layers for h in encoded[name]), strict=True)] for name in encoded
}
spectra = {name: {layer: spectrum(x) for layer, x in zip(layers, frames[name], strict=True)} for name in frames}
display(plot_spectra(spectra, "How many directions each layer uses"))

# %% [markdown]
# ## Which layers are alike
# 1 is the same but for rotation and scale. With random weights all layers repeat the input; training shows in layers
# that turn away from it.

# %%
alike = {name: similarity(x) for name, x in frames.items()}
display(plot_similarity(alike, layers, "How alike layers are"))
