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
# # Information in the target codes
#
# Pretraining predicts codes without labels: nearest random directions, or clusters of speech frames. This notebook
# measures what a code represents: the phone, the speaker, or neither. No encoder is involved.
#
# Codes are those of the newest checkpoint below `logs/`, or of `STREAMNEST_CKPT`; without any, of the default config.
# Speech is the built-in sample, in which one reader has phones. To use other speech, set `STREAMNEST_MANIFEST` and
# `STREAMNEST_PHONES` (the format of `streamnest probe`).

# %%
# %matplotlib inline
import warnings

# Progress bars need no widgets here.
warnings.filterwarnings("ignore", message="IProgress not found|install .ipywidgets")

from IPython.display import display

from streamnest.plotting import plot_code_histogram
from streamnest.probing.code_plots import (
    plot_code_distances,
    plot_label_information,
    plot_phones_of_codes,
    plot_spoken_codes,
)
from streamnest.probing.codes import (
    code_distances,
    codes_of,
    label_information,
    label_shares,
    other_codes,
    read_labeled_frames,
)
from streamnest.probing.encoded import choose
from streamnest.quantizer import count_codes
from streamnest.reporting.notebook import how_many, labeled_speech, open_subject, repository

UTTERANCES = how_many(700)  # with phones, and as many without
FEW = 100  # codes of the quantizers to compare

root = repository()
subject = open_subject(root)
quantizer = subject.model.quantizer
utterances = choose(labeled_speech(root), UTTERANCES, seed=0)
speech = read_labeled_frames(subject.model, utterances)
own = f"{quantizer.codes}, {quantizer.num_classes} codes\n(this model)"
codes = {own: codes_of(quantizer, speech.inputs)}
sizes = {own: quantizer.num_classes}
for kind in ("random", "pca", "kmeans"):
    name = f"{kind}, {FEW} codes"
    codes[name], sizes[name] = other_codes(quantizer, kind, FEW, speech.inputs), FEW
print(f"targets of {subject.name}; {len(speech.inputs)} frames of {subject.model.encoder.frame_ms:g} ms")

# %% [markdown]
# ## A sentence in codes
# Above: three seconds of log-mel with phones between white lines. Below: the code of each frame, one strip for each
# quantizer; within a strip, equal colors are equal codes. In good targets, a color lasts as long as a phone, and every
# occurrence of a phone has the same color.

# %%
place = next((n for n, u in enumerate(utterances) if u.phones), 0)
start, end = speech.spans[place]
mel = speech.inputs[start:end].reshape(-1, quantizer.feat_in).t().numpy()
stride, hop = subject.model.encoder.frame_ms / 1000, subject.model.frontend.hop_ms / 1000
strips = {name: found[start:end] for name, found in codes.items()}
display(plot_spoken_codes(mel, strips, utterances[place].phones, hop, stride))

# %% [markdown]
# ## Code usage
# A line close to the dotted one (uniform over its number of codes) uses all codes equally. One that falls early leaves
# most codes unused, so that the model predicts only a few of them.

# %%
counts = {name.replace("\n", " "): count_codes(codes[name][:, None], sizes[name])[0].double().numpy() for name in codes}
display(plot_code_histogram(counts))

# %% [markdown]
# ## Codes against phones
# Columns are codes, rows phones; a cell is the share of the code's frames with this phone. A code that represents one
# phone has one bright cell, and codes for all phones form a diagonal. A column with many dim cells is a code for many
# sounds. Rare phones are not shown.

# %%
if speech.phone_names:
    tables = {n: label_shares(codes[n], speech.phones, sizes[n], len(speech.phone_names)) for n in list(codes)[1::2]}
    display(plot_phones_of_codes(tables, speech.phone_names))

# %% [markdown]
# ## Label information in codes
# The share of the entropy of phones, or speakers, that the code of a frame explains. With many codes and little speech,
# part of it is chance: the hatched part is the share for shuffled labels. The number on a bar is the difference. Good
# targets explain much about phones (green) and little about speakers (orange) above the hatching.

# %%
information = {
    n: {"phones": label_information(c, speech.phones), "speakers": label_information(c, speech.speakers)}
    for n, c in codes.items()
}
display(plot_label_information(information))

# %% [markdown]
# ## Codes against speakers
# Distance between the code frequencies of two speakers: 0 is equal, 1 means disjoint codes. The diagonal compares
# different speech of the same speaker, which shows the effect of chance and content. If the rest of a row is far
# darker, codes depend on the speaker or the recording: in the built-in sample, `fotaq` was recorded at 11 kHz, the
# others at 16 kHz or more.

# %%
distances = code_distances(codes[own], speech.speakers, quantizer.num_classes, len(speech.speaker_names))
if distances.diagonal().isfinite().sum() > 1:
    display(plot_code_distances(distances, speech.speaker_names, "Distance between the codes of speakers"))
else:
    print("Too little speech per speaker to compare speakers: raise STREAMNEST_UTTERANCES.")
