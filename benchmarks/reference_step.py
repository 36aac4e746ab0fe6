"""Times a streaming step of NVIDIA NeMo's encoder; `benchmarks/reference.py` runs it in an environment with NeMo.

Each line of standard input is a number of steps; each answer is a line with a JSON list of the milliseconds of these
steps: 80 ms, features to encoder frames, d 256, 8 layers, 70 frames of left context, one thread, random weights.
"""

from __future__ import annotations

import argparse


def parse() -> argparse.Namespace:
    """Parses a command line without the package, which the environment of NeMo does not have."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("factor", type=int, choices=(4, 8), help="subsampling factor")
    return parser.parse_args()


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import sys
import time
from typing import Any

import torch


def build(factor: int) -> Any:
    """Builds a cache-aware FastConformer of the size of the comparison, with chunks of 80 ms for either factor."""
    from nemo.collections.asr.modules import ConformerEncoder

    encoder = ConformerEncoder(
        feat_in=80,
        n_layers=8,
        d_model=256,
        subsampling="dw_striding",
        subsampling_factor=factor,
        subsampling_conv_channels=256,
        causal_downsampling=True,
        n_heads=4,
        att_context_size=[70, 8 // factor - 1],
        att_context_style="chunked_limited",
        conv_kernel_size=9,
        conv_norm_type="layer_norm",
        conv_context_size="causal",
    ).eval()
    encoder.setup_streaming_params()
    return encoder


class Stream:
    """A stream of noise through an encoder."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, config = encoder, encoder.streaming_cfg
        frames = config.pre_encode_cache_size[1] + config.chunk_size[1]
        self.features, self.length = torch.randn(1, 80, frames), torch.tensor([frames])
        self.caches = encoder.get_initial_cache_state(batch_size=1)

    def step(self) -> float:
        """Runs a step; returns its milliseconds."""
        begin = time.perf_counter()
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
        return 1000 * (time.perf_counter() - begin)


@torch.inference_mode()
def main() -> None:
    """Runs steps for one subsampling factor until the input ends."""
    args = parse()
    torch.set_num_threads(1)
    stream = Stream(build(args.factor))
    for _ in range(80):  # until the cache is full
        stream.step()
    for line in sys.stdin:
        print("times", json.dumps([stream.step() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
