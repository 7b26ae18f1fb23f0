"""Bytes of activations that are kept from the forward pass for the backward pass, as this implementation keeps them.

The blocks are Megatron-core's local ones without fusions and without dropout, around
:class:`~pause_megatron.model.attention.ScaledDotProductAttention`, which keeps no attention matrix, and
:mod:`~pause_megatron.model.cross_entropy`, which keeps little beside the logits. The properties below list the tensors
that autograd saves, as found by counting them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Layout

_FP32 = 4
_INDEX = 8
"""Bytes of a token's id, of its position, of its label."""
_OF_LABELS = _INDEX + 3 * _FP32
"""Bytes a token beside the logits: the label's column, whether it is here, its probability, the row's factor."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What one process keeps of one microbatch, part by part, in bytes."""

    model: ModelConfig
    """Sizes."""
    layout: Layout
    """How the model is divided, and what is recomputed."""
    vocab_size: int
    """The tokenizer's."""
    sequences: int
    """Sequences of the microbatch."""
    seq_length: int
    """Tokens of a sequence."""
    element: int
    """Bytes of one number of the precision the model computes in."""
    on_cpu: bool = False
    """Whether PyTorch computes RMSNorm from simple operations, in fp32, which keep more than its GPU kernel does."""

    @property
    def tokens(self) -> int:
        """Tokens of the microbatch."""
        return self.sequences * self.seq_length

    @property
    def _own_tokens(self) -> int:
        """Tokens in this process's residual stream and norms: sequence parallelism divides them."""
        return self.tokens // self.layout.tp if self.layout.sequence_parallel else self.tokens

    @property
    def whole_residual(self) -> int:
        """One state of the residual stream, of all tokens."""
        return self.tokens * self.model.hidden_size * self.element

    @property
    def residual(self) -> int:
        """One state of this process's residual stream: what enters and leaves a layer, and goes to the next stage."""
        return self._own_tokens * self.model.hidden_size * self.element

    @property
    def embeddings(self) -> int:
        """Ids, positions, and with tensor parallelism which ids are in this process's part of the vocabulary."""
        positions = _INDEX if self.model.architecture == "gpt2" else 0
        return self.tokens * (_INDEX + positions + (1 if self.layout.tp > 1 else 0))

    @property
    def layer(self) -> int:
        """A layer without any recomputation."""
        return 2 * self.norm + self.attention + self.mlp

    @property
    def norm(self) -> int:
        """A norm's input and statistics, and its output, which the matrix after it keeps."""
        rms = self.model.architecture == "llama"
        statistics = self._own_tokens * _FP32 * (1 if rms else 2)
        if rms and self.on_cpu:  # the input and the normalised input, both in fp32
            return self.residual + statistics + 2 * self._own_tokens * self.model.hidden_size * _FP32
        return 2 * self.residual + statistics

    @property
    def attention(self) -> int:
        """Queries, keys and values, the output, and the logarithm of each softmax's sum.

        Queries, keys and values are views of one tensor, except what had to be copied: queries out of their groups, and
        queries and keys when they were rotated. A view keeps the whole tensor.
        """
        model, tp = self.model, self.layout.tp
        rotary = model.architecture == "llama"
        key_value = model.query_groups * model.head_dim
        width = (model.hidden_size + 2 * key_value) + model.hidden_size  # of the one tensor, and of the output
        width += model.hidden_size if rotary or tp < model.query_groups < model.num_attention_heads else 0
        width += key_value if rotary else 0
        sums = self.tokens * model.num_attention_heads // tp * _FP32
        # Sines and cosines are made anew for queries and keys, once for all sequences.
        angles = 4 * self.seq_length * model.head_dim * self.element if rotary else 0
        return self.tokens * width // tp * self.element + sums + angles

    @property
    def mlp(self) -> int:
        """The inside of an MLP.

        GELU's input and output; or gate and up projection in one tensor, SiLU of the gate, a copy of the up projection
        (Megatron-core adds an offset, here 0) and the product.
        """
        return (5 if self.model.architecture == "llama" else 2) * self._in_mlp

    @property
    def mlp_gradients(self) -> int:
        """Gradients of what is inside an MLP, as many as there are together."""
        return (2 if self.model.architecture == "llama" else 1) * self._in_mlp

    @property
    def _in_mlp(self) -> int:
        return self.tokens * self.model.ffn_size // self.layout.tp * self.element

    @property
    def head(self) -> int:
        """Final norm, and this process's part of the logits, over which the cross-entropy writes their gradient."""
        logits = self.tokens * padded_vocab_size(self.vocab_size) // self.layout.tp * self.element
        return self.norm + logits + self.tokens * _OF_LABELS

    @property
    def chunk_layers(self) -> int:
        """The layers of one model chunk, under the layout's recomputation."""
        layers = self.model.num_layers // (self.layout.pp * self.layout.vp)
        match self.layout.recompute_granularity:
            case "full":  # the blocks' inputs, and the table of rotary angles that is passed to each
                angles = self.seq_length * self.model.head_dim * _FP32 if self.model.architecture == "llama" else 0
                return layers // self.layout.recompute_num_layers * self.residual + angles
            case "selective":
                return layers * (self.layer - self.mlp)
            case "none":
                return layers * self.layer

    @property
    def recomputed(self) -> int:
        """What recomputation brings back for a moment, beyond what was kept."""
        match self.layout.recompute_granularity:
            case "full":
                return self.layout.recompute_num_layers * self.layer - self.residual
            case "selective":
                return self.mlp
            case "none":
                return 0
