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
# # One utterance on its way through pretraining
#
# What the encoder hears, what is hidden from it, which codes it should say, and what it says. The notebook takes the
# newest checkpoint below `logs/`, or the one named in `STREAMNEST_CKPT`; without any it shows an untrained model.

# %%
# %matplotlib inline
import os
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from IPython.display import Audio, display

from streamnest import config
from streamnest.build import build_model
from streamnest.callbacks.pictures import predict
from streamnest.checkpoint import load_pretrained
from streamnest.drawing import draw_code_histogram, draw_prediction
from streamnest.statistics import fit_statistics

root = Path(os.environ.get("STREAMNEST_ROOT", Path.cwd())).resolve()
os.environ["STREAMNEST_ROOT"] = str(root)
config.register()
with initialize_config_dir(str(root / "configs"), version_base="1.3"):
    cfg = compose("train", ["name=notebook", "preset=notebook", "data.cache_mb=0", "paths.output_dir=."])

# %%
data = instantiate(cfg.data)
data.setup("fit")
runs = sorted((root / "logs").rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
checkpoint = os.environ.get("STREAMNEST_CKPT") or (runs[-1] if runs else None)
if checkpoint:
    model = load_pretrained(checkpoint)
else:
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    fit_statistics(model, data.statistics_batches(), hours=0.1)
print("checkpoint:", checkpoint or "none, the model is untrained")
print(f"look-ahead {model.latency.lookahead_ms:.1f} ms, latency {model.latency.latency_mean_ms:.1f} ms on average")

# %% [markdown]
# ## The audio
# The validation utterance nearest to five seconds, of a speaker that training never heard.

# %%
batches = list(data.val_dataloader())
rows = [(b, r) for b in batches for r in range(len(b.ids))]
batch, row = min(rows, key=lambda place: abs(int(place[0].lengths[place[1]]) - 5 * 16000))
length = int(batch.lengths[row])
utterance = type(batch)(
    clean=batch.clean[row : row + 1, :length],
    noisy=batch.clean[row : row + 1, :length],
    lengths=batch.lengths[row : row + 1],
    keys=batch.keys[row : row + 1],
    step=0,
    ids=[batch.ids[row]],
    seconds=length / 16000,
)
display(Audio(utterance.clean[0].numpy(), rate=16000))

# %% [markdown]
# ## Heard, asked, answered
# Orange frames are hidden. Below: the target codes, what the model said on the hidden frames, and what each cost.

# %%
picture = predict(model, utterance, "notebook")
display(draw_prediction(picture))

# %%
hidden = picture.selected
right = (picture.codes == picture.predicted)[hidden].mean() if hidden.any() else float("nan")
print(f"{hidden.sum()} hidden frames, {right:.0%} right, {picture.nats[hidden].mean():.2f} nats each")

# %% [markdown]
# ## How often each code occurs in the training set
# Healthy targets use many codes; un-normalised features would use a few dozen.

# %%
display(draw_code_histogram({"training": model.train_counts[0].double().numpy()}))
