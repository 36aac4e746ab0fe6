"""Computes reference outputs with NeMo; runs in an environment that has it.

python nemo_reference.py run ARCHIVE AUDIO.pt OUT.pt     opens a NEST archive and saves its outputs
python nemo_reference.py make ARCHIVE AUDIO.pt OUT.pt    builds a cache-aware recognizer and saves it with its outputs
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from nemo.collections.asr.models.ssl_models import EncDecDenoiseMaskedTokenPredModel
from omegaconf import OmegaConf

MODULES = "nemo.collections.asr.modules."
RECOGNIZER: dict[str, Any] = {
    "sample_rate": 16000,
    "preprocessor": {
        "_target_": f"{MODULES}AudioToMelSpectrogramPreprocessor",
        "normalize": "NA",
        "window_size": 0.025,
        "features": 80,
        "n_fft": 512,
        "pad_to": 0,
    },
    "spec_augment": {"_target_": f"{MODULES}SpectrogramAugmentation", "freq_masks": 2, "time_masks": 10},
    "encoder": {
        "_target_": f"{MODULES}ConformerEncoder",
        "feat_in": 80,
        "n_layers": 2,
        "d_model": 32,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 16,
        "causal_downsampling": True,
        "n_heads": 4,
        "att_context_size": [[14, 6], [14, 0]],
        "att_context_style": "chunked_limited",
        "conv_kernel_size": 9,
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
        "untie_biases": False,
    },
    "decoder": {
        "_target_": f"{MODULES}ConvASRDecoder",
        "feat_in": 32,
        "num_classes": 3,
        "vocabulary": ["a", "b", "c"],
    },
    "decoding": {"strategy": "greedy_batch"},
}


@torch.no_grad()
def outputs(model: Any, audio: torch.Tensor) -> dict[str, Any]:
    """Computes the outputs of each row by itself, since fixed statistics allow one row only."""
    results: dict[str, Any] = {"encoded": [], "tokens": [], "logp": []}
    for row in audio:
        features, length = model.preprocessor(input_signal=row[None].clone(), length=torch.tensor([len(row)]))
        encoded, valid = model.encoder(audio_signal=features, length=length)
        results["encoded"].append(encoded[0, :, : int(valid)].t().clone())
        if hasattr(model, "quantizer"):
            results["tokens"].append(model.quantizer(input_signal=features)[1][0])
            results["logp"].append(model.decoder(encoder_output=encoded)[0, : int(valid)])
    return results


def main() -> None:
    """Command line."""
    action, archive, audio, out = sys.argv[1:]
    torch.manual_seed(0)
    samples = torch.load(audio, weights_only=True)
    if action == "make":
        model = EncDecCTCModel(OmegaConf.create(RECOGNIZER))
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        model.save_to(archive)
        model = ASRModel.restore_from(archive, map_location="cpu")
    else:
        model = EncDecDenoiseMaskedTokenPredModel.restore_from(archive, map_location="cpu")
    torch.save(outputs(model.eval(), samples), out)


if __name__ == "__main__":
    main()
