"""Rotary angles: Megatron-core's, on any device, of given position indices, and with the scaling of Llama 3.1."""

import math
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from pause_megatron.config.model import ModelConfig


def rotary_frequencies(frequencies: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    """Scale rotary ``frequencies`` (radians per position, ``[head_dim / 2]``) as ``model`` says.

    Those with fewer than ``rope_low_freq_factor`` rotations over the original context are divided by the scaling
    factor, those with more than ``rope_high_freq_factor`` do not change, and those in between are interpolated. The
    operations and their order are those of transformers (``rope_type: llama3``), so the results are equal bit by bit.
    """
    if not model.use_rope_scaling:
        return frequencies
    factor, original = model.rope_scaling_factor, model.rope_original_max_position_embeddings
    low, high = model.rope_low_freq_factor, model.rope_high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    smooth = (original / wavelengths - low) / (high - low)
    between = (1 - smooth) * frequencies / factor + smooth * frequencies
    scaled = torch.where(wavelengths < original / high, frequencies, between)
    return torch.where(wavelengths > original / low, frequencies / factor, scaled)


class RotaryAngles(RotaryEmbedding):
    """Rotary angles in fp32, on the device of the model; Megatron-core's own are on the GPU wherever there is one."""

    inv_freq: torch.Tensor
    marker: torch.Tensor

    def get_emb(self, max_seq_len: int, offset: int = 0) -> torch.Tensor:
        """Return the angle of every position and feature, fp32 ``[max_seq_len, 1, 1, head_dim]``."""
        self.inv_freq = self.inv_freq.to(self.marker.device)
        angles = self.get_freqs_non_repeated(max_seq_len, offset)  # [max_seq_len, head_dim / 2]
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]


class AnglesOfPositions(RotaryAngles):
    """Rotary angles of given position indices: Megatron-core's are those of 0, 1, 2, ... for every sequence.

    Set :attr:`position_ids` before each forward pass.
    """

    position_ids: torch.Tensor
    """Position index of each token, int64 ``[B, S]``, with all of the sequence also under sequence parallelism."""
    num_positions = 0
    """Every index is below this number, or below S: pauses that share positions only make indices smaller."""

    def forward(self, max_seq_len: int, *_: Any, **__: Any) -> torch.Tensor:
        """Return the angle of every token and feature, fp32 ``[S, B, 1, head_dim]``; ``max_seq_len`` is S."""
        assert self.position_ids.shape[1] == max_seq_len
        table = self.get_emb(max(max_seq_len, self.num_positions))[:, 0, 0]  # [positions, head_dim]
        return table[self.position_ids.t().to(table.device)][:, :, None]  # [S, B] -> [S, B, 1, head_dim]


def keep_on_the_models_device(rotary: RotaryEmbedding, *, shares_positions: bool) -> None:
    """Change ``rotary`` to :class:`RotaryAngles`, or with ``shares_positions`` to :class:`AnglesOfPositions`."""
    # An empty buffer moves with the weights. The frequencies themselves are no buffer, which would become bf16 too.
    rotary.register_buffer("marker", torch.empty(0, dtype=torch.bool), persistent=False)
    rotary.__class__ = AnglesOfPositions if shares_positions else RotaryAngles
