"""Times steps of NVIDIA NeMo; `benchmarks/reference.py` and `reference_training.py` run it in an environment with NeMo.

Each line of standard input is a number of steps; each answer is a line with a JSON list of the milliseconds of these
steps. d 256, 8 layers, 4 heads, random weights. Streaming: 80 ms, features to encoder frames, 70 frames of left
context, one thread. Training: a whole step of pretraining on 8 x 8 s of noise, dropout 0.1.
"""

from __future__ import annotations

import argparse


def parse() -> argparse.Namespace:
    """Parses a command line without the package, which the environment of NeMo does not have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factor", type=int, choices=(4, 8), help="subsampling factor")
    parser.add_argument("--training", choices=("causal", "bidirectional"), help="time a training step instead")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import sys
import time
from typing import Any

import torch

BATCH, SECONDS, CLASSES = 8, 8, 8192
CAUSAL = {
    "causal_downsampling": True,
    "att_context_style": "chunked_limited",
    "conv_norm_type": "layer_norm",
    "conv_context_size": "causal",
}


def build(factor: int, **options: Any) -> Any:
    """Builds a FastConformer of the size of the comparison."""
    from nemo.collections.asr.modules import ConformerEncoder

    return ConformerEncoder(
        feat_in=80,
        n_layers=8,
        d_model=256,
        subsampling="dw_striding",
        subsampling_factor=factor,
        subsampling_conv_channels=256,
        n_heads=4,
        conv_kernel_size=9,
        **options,
    )


class Stream:
    """A stream of noise through a cache-aware encoder, in chunks of 80 ms for either factor."""

    def __init__(self, factor: int) -> None:
        self.encoder = build(factor, att_context_size=[70, 8 // factor - 1], **CAUSAL).eval()
        self.encoder.setup_streaming_params()
        config = self.encoder.streaming_cfg
        frames = config.pre_encode_cache_size[1] + config.chunk_size[1]
        self.features, self.length = torch.randn(1, 80, frames), torch.tensor([frames])
        self.caches = self.encoder.get_initial_cache_state(batch_size=1)

    @torch.inference_mode()
    def step(self) -> None:
        """Runs a step."""
        channel, past, filled = self.caches
        out = self.encoder.cache_aware_stream_step(
            processed_signal=self.features,
            processed_signal_length=self.length,
            cache_last_channel=channel,
            cache_last_time=past,
            cache_last_channel_len=filled,
            keep_all_outputs=False,
            drop_extra_pre_encoded=self.encoder.streaming_cfg.drop_extra_pre_encoded,
        )
        self.caches = out[2:5]


class Training:
    """A pretraining step with NeMo's modules and the sizes of `benchmarks/training_step.py`.

    Features of clean and noisy audio, codes, mask, encoder, decoder, loss, backward, AdamW.
    """

    def __init__(self, factor: int, context: str) -> None:
        from nemo.collections.asr.losses.ssl_losses.mlm import MultiMLMLoss
        from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
        from nemo.collections.asr.modules.ssl_modules import (
            MultiSoftmaxDecoder,
            RandomBlockMasking,
            RandomProjectionVectorQuantizer,
        )

        causal = {"att_context_size": [-1, 0], **CAUSAL} if context == "causal" else {}
        self.preprocessor = AudioToMelSpectrogramPreprocessor(features=80, n_fft=512, normalize="per_feature").train()
        self.encoder = build(factor, dropout=0.1, dropout_pre_encoder=0.1, dropout_att=0.1, **causal).train()
        self.quantizer = RandomProjectionVectorQuantizer(
            feat_in=80, code_dim=16, num_classes=CLASSES, num_books=1, dist_fn="l2", combine_time_steps=factor
        )
        self.masking = RandomBlockMasking(feat_in=80, block_size=40, mask_prob=0.01, allow_overlap=True)
        self.decoder = MultiSoftmaxDecoder(feat_in=256, num_classes=CLASSES, num_decoders=1).train()
        self.loss = MultiMLMLoss(combine_time_steps=factor, num_decoders=1, squeeze_single=False)
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        self.clean = 0.1 * torch.randn(BATCH, 16000 * SECONDS)
        self.noisy = self.clean + 0.01 * torch.randn(self.clean.shape)
        self.lengths = torch.full((BATCH,), self.clean.shape[1])

    def step(self) -> None:
        """Runs a step."""
        clean, frames = self.preprocessor(input_signal=self.clean.clone(), length=self.lengths)
        noisy, _ = self.preprocessor(input_signal=self.noisy.clone(), length=self.lengths)
        _, codes = self.quantizer(input_signal=clean)
        noisy, masks = self.masking(input_feats=noisy, input_lengths=frames)
        encoded, lengths = self.encoder(audio_signal=noisy, length=frames)
        log_probs = self.decoder(encoder_output=encoded)
        log_probs = log_probs[:, : codes.shape[1]]  # causal subsampling appends a frame
        self.loss(masks=masks, decoder_outputs=log_probs, targets=codes, decoder_lengths=lengths).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def timed(subject: Stream | Training) -> float:
    """Runs a step; returns its milliseconds."""
    begin = time.perf_counter()
    subject.step()
    return 1000 * (time.perf_counter() - begin)


def main() -> None:
    """Runs steps until the input ends."""
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    subject = Training(args.factor, args.training) if args.training else Stream(args.factor)
    for _ in range(1 if args.training else 80):  # until the cache is full
        subject.step()
    for line in sys.stdin:
        print("times", json.dumps([timed(subject) for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
