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
# # What codes mean
#
# Pretraining predicts codes that nobody chose: random directions, or groups that speech forms by itself. This
# notebook asks what such a code stands for: the phone that is spoken, the person who speaks, or neither. No encoder
# is involved.
#
# Codes are those of the newest checkpoint below `logs/`, or of `STREAMNEST_CKPT`; without any, of the default config.
# Speech is the built-in sample, of which one reader has phones. For other speech set `STREAMNEST_MANIFEST` and
# `STREAMNEST_PHONES` (the format of `streamnest probe`).

# %%
# %matplotlib inline
from IPython.display import display

from streamnest.plotting import draw_code_histogram
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
from streamnest.reporting.notebook import how_many, labelled_speech, open_subject, repository

UTTERANCES = how_many(700)  # with phones, and as many without
FEW = 100  # codes of the kinds that are compared

root = repository()
subject = open_subject(root)
quantizer = subject.model.quantizer
utterances = choose(labelled_speech(root), UTTERANCES, seed=0)
speech = read_labeled_frames(subject.model, utterances)
own = f"{quantizer.codes}, {quantizer.num_classes} codes\n(this model)"
codes = {own: codes_of(quantizer, speech.inputs)}
sizes = {own: quantizer.num_classes}
for kind in ("random", "pca", "kmeans"):
    name = f"{kind}, {FEW} codes"
    codes[name], sizes[name] = other_codes(quantizer, kind, FEW, speech.inputs), FEW
print(f"targets of {subject.name}; {len(speech.inputs)} blocks of {subject.model.encoder.frame_ms:g} ms")

# %% [markdown]
# ## A sentence in codes
# Above: three seconds of log-mel and, between white lines, the phones. Below: the code of each block, one strip for
# each kind of codes; the same colour in a strip is the same code. Look for colours that last as long as a phone, and
# for phones that come back with the same colour.

# %%
place = next((n for n, u in enumerate(utterances) if u.phones), 0)
start, end = speech.spans[place]
mel = speech.inputs[start:end].reshape(-1, quantizer.feat_in).t().numpy()
stride, hop = subject.model.encoder.frame_ms / 1000, subject.model.frontend.hop_ms / 1000
strips = {name: found[start:end] for name, found in codes.items()}
display(plot_spoken_codes(mel, strips, utterances[place].phones, hop, stride))

# %% [markdown]
# ## How many codes are used
# A line that stays near the dotted one (of its number of codes) uses them all alike. One that falls early leaves most
# of them idle, so that the model is asked the same few questions again and again.

# %%
counts = {name.replace("\n", " "): count_codes(codes[name][:, None], sizes[name])[0].double().numpy() for name in codes}
display(draw_code_histogram(counts))

# %% [markdown]
# ## Codes against phones
# A column is a code, a row a phone, and a cell the share of the code's frames in which this phone is spoken. A code
# that stands for one phone has one bright cell, and codes for all phones make a diagonal. A column with many dim
# cells is a code that means many sounds. Rare phones are not shown.

# %%
if speech.phone_names:
    tables = {n: label_shares(codes[n], speech.phones, sizes[n], len(speech.phone_names)) for n in list(codes)[1::2]}
    display(plot_phones_of_codes(tables, speech.phone_names))

# %% [markdown]
# ## What a code tells
# The share of what there is to know about a phone, or a speaker, that the code of a frame gives away. Many codes on
# little speech seem to tell much by chance: the hatched part is what they tell of labels in a random order. Only what
# stands above it is knowledge; the number on a bar says how much. Good targets have much green and little orange
# above the hatching.

# %%
found = {
    n: {"phones": label_information(c, speech.phones), "speakers": label_information(c, speech.speakers)}
    for n, c in codes.items()
}
display(plot_label_information(found))

# %% [markdown]
# ## Codes against speakers
# How differently two speakers use the codes of this model: 0 is alike, 1 is no code in common. The diagonal is a
# speaker against other speech of the same speaker, which is what chance and content alone make. Where the rest of a
# row is far darker, the codes know who speaks, or on which line: in the built-in sample `fotaq` was recorded at 11
# kHz, the others at 16 kHz or more.

# %%
distances = code_distances(codes[own], speech.speakers, quantizer.num_classes, len(speech.speaker_names))
display(plot_code_distances(distances, speech.speaker_names, "How differently speakers use codes"))
