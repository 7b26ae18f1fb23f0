"""How fast a run is: tokens, operations, and how much of what its devices could do that is."""

from __future__ import annotations

import torch

from pause_megatron.config.deepspeed import Precision
from pause_megatron.config.pretrain import PretrainConfig
from pause_megatron.costs.devices import find_device
from pause_megatron.costs.flops import training_flops
from pause_megatron.training.inputs import PretrainInputs


class Speed:
    """Turns what a run has done in some time into rates."""

    def __init__(self, config: PretrainConfig, inputs: PretrainInputs) -> None:
        self._seq_length = inputs.seq_length
        flops = training_flops(config.model, vocab_size=inputs.tokenizer.vocab_size, seq_length=inputs.seq_length).model
        self._tflop_per_sequence = flops / 1e12 / inputs.layout.world_size  # of each device
        self._peak_tflops = config.logging.peak_tflops or _datasheet_peak(inputs.deepspeed_file.precision)

    def figures(self, sequences: int, seconds: float) -> dict[str, float]:
        """What a record says of ``sequences`` trained on in ``seconds``; no MFU where the device's peak is unknown."""
        tflops = sequences * self._tflop_per_sequence / seconds
        found = {"tokens_per_second": sequences * self._seq_length / seconds, "tflops_per_device": tflops}
        if self._peak_tflops:
            found["mfu"] = tflops / self._peak_tflops
        return found


def _datasheet_peak(precision: Precision) -> float | None:
    """Peak of this process's GPU in TFLOP/s; None for a CPU and for what is not known."""
    device = find_device(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return device.peak_tflops(precision) if device else None
