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
# newest checkpoint of pretraining below `logs/`, or the one named in `STREAMNEST_CKPT`; without any it shows an
# untrained model.

# %%
# %matplotlib inline
from IPython.display import Audio, display

from streamnest.callbacks.pictures import predict
from streamnest.plotting import draw_code_histogram, draw_prediction
from streamnest.reporting.notebook import open_subject, repository, utterance_near

subject = open_subject(repository())
model = subject.model
print("checkpoint:", subject.checkpoint or "none, the model is untrained")
print(f"look-ahead {model.latency.lookahead_ms:.1f} ms, latency {model.latency.latency_mean_ms:.1f} ms on average")

# %% [markdown]
# ## The audio
# The validation utterance nearest to five seconds, of a speaker that training never heard.

# %%
utterance = utterance_near(subject, seconds=5.0)
display(Audio(utterance.clean[0].numpy(), rate=model.frontend.sample_rate))

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
