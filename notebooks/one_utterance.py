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
# # How one utterance flows through pretraining
#
# Input, masks, target codes and predictions for one utterance. The notebook loads the newest checkpoint of pretraining
# below `logs/`, or `STREAMNEST_CKPT`; without any it shows an untrained model.

# %%
# %matplotlib inline
import warnings

# Progress bars need no widgets here.
warnings.filterwarnings("ignore", message="IProgress not found|install .ipywidgets")

from IPython.display import Audio, display

from streamnest.callbacks.plots import predict
from streamnest.plotting import plot_code_histogram, plot_prediction
from streamnest.reporting.notebook import open_subject, repository, utterance_near

subject = open_subject(repository())
model = subject.model
print("checkpoint:", subject.checkpoint or "none, the model is untrained")
print(f"look-ahead {model.latency.lookahead_ms:.1f} ms, latency {model.latency.latency_mean_ms:.1f} ms on average")

# %% [markdown]
# ## The audio
# The validation utterance closest to five seconds, from a speaker who is not in the training set.

# %%
utterance = utterance_near(subject, seconds=5.0)
display(Audio(utterance.clean[0].numpy(), rate=model.frontend.sample_rate))

# %% [markdown]
# ## Input, targets and predictions
# Hatched frames are masked. Below: target codes, predictions for the masked frames, and their loss.

# %%
prediction = predict(model, utterance, "notebook")
display(plot_prediction(prediction))

# %%
masked = prediction.selected
correct = (prediction.codes == prediction.predicted)[masked].mean() if masked.any() else float("nan")
print(f"{masked.sum()} masked frames, {correct:.0%} correct, mean loss {prediction.nats[masked].mean():.2f} nats")

# %% [markdown]
# ## Code frequencies in the training set
# Healthy targets use many codes; without normalization of the features, a few dozen would be in use.

# %%
display(plot_code_histogram({"training": model.train_counts[0].double().numpy()}))
