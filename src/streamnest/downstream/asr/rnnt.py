"""Speech recognition with an RNN transducer (RNN-T) on a streaming encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from streamnest.config.tasks import DownstreamConfig, RNNTConfig
from streamnest.downstream.asr.ctc_decoding import Hypothesis
from streamnest.downstream.asr.language import Language
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.prediction_network import make_prediction_network
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.transducer import DecoderState, Transducer
from streamnest.downstream.asr.transducer_search import TransducerBeamSearch
from streamnest.downstream.base import Row
from streamnest.errors import UserError


class RNNTRecognizer(TextTask):
    """Encoder, prediction network and joiner (Graves 2012); the arguments are those of `TextTask`.

    The prediction network sees tokens only, so the look-ahead is that of the encoder.

    Raises:
        UserError: for settings out of range.
    """

    Settings: ClassVar[type[DownstreamConfig]] = RNNTConfig
    shaped_by: ClassVar[tuple[str, ...]] = (
        *TextTask.shaped_by,
        "prediction_network",
        "prediction_dim",
        "context_size",
        "prediction_layers",
        "joiner_dim",
    )

    def __init__(self, *args: Any, settings: RNNTConfig, **kwargs: Any) -> None:
        super().__init__(*args, settings=settings, **kwargs)
        for name in ("joiner_dim", "max_symbols", "max_scores"):
            if getattr(settings, name) < 1:
                raise UserError(f"task.{name}={getattr(settings, name)}: must be at least 1")
        self.settings, tokens = settings, self.tokenizer.size
        sizes = (settings.prediction_dim, settings.context_size, settings.prediction_layers)
        network = make_prediction_network(settings.prediction_network, tokens, *sizes)
        self.head = Transducer(network, settings.prediction_dim, self.encoder.d_model, settings.joiner_dim, tokens)

    def outputs(self, encoded: Tensor) -> Tensor:
        """Projects the frames for the joiner."""
        projected: Tensor = self.head.of_frames(encoded)
        return projected

    def loss(
        self, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Computes `Transducer.loss`."""
        rows = [row for row, good in enumerate(usable) if good]
        if not rows:
            # DDP needs a gradient of every weight on every rank.
            every_weight = outputs.sum() + sum(weight.sum() for weight in self.head.parameters())
            return every_weight.float() * 0.0, outputs.new_zeros((), dtype=torch.float32)
        chosen = [targets[row] for row in rows]
        loss = self.head.loss(outputs[rows], lengths[rows], chosen, self.settings.max_scores)
        return loss, loss.new_tensor(float(sum(map(len, chosen))))

    def divergence(
        self, target: Tensor, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> Tensor:
        """Computes `Transducer.divergence`."""
        rows = [row for row, (good, frames) in enumerate(zip(usable, lengths.tolist())) if good and frames > 0]
        if not rows:
            return outputs.sum().float() * 0.0
        chosen = [targets[row] for row in rows]
        return self.head.divergence(target[rows], outputs[rows], lengths[rows], chosen, self.settings.max_scores)

    def unfit(self, target: list[int], frames: int) -> str:
        """Refuses texts that are longer than decoding can emit; the loss itself has no such limit."""
        return "longer text than frames" if len(target) > self.settings.max_symbols * frames else ""

    def start(self, batch: int) -> DecoderState:
        """Returns the state before the first token."""
        return self.head.start(batch)

    def decode(self, outputs: Tensor, lengths: Tensor, state: DecoderState) -> tuple[list[list[int]], DecoderState]:
        """Decodes greedily: in each frame the best token until it is the blank."""
        return self.head.greedy(outputs, lengths, state, self.settings.max_symbols)

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """Returns a time-synchronous beam search."""
        language = Language(self.tokenizer, ngram, lm_weight, bonus)
        return TransducerBeamSearch(self.head, beam, language, self.settings.max_symbols)

    def describe(self) -> list[Row]:
        """Adds the prediction network to the start panel."""
        kind = self.settings.prediction_network
        context = f"the last {self.settings.context_size} tokens" if kind == "stateless" else "all previous tokens"
        size = sum(weight.numel() for weight in self.head.parameters())
        return [
            *super().describe(),
            ("prediction network", f"{kind}, context {context}; {size / 1e6:.2f}M parameters with the joiner"),
        ]
