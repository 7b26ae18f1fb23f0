"""Bytes of activations that the forward pass keeps for the backward pass.

The blocks are Megatron-core's local ones without fusions and dropout, with
:class:`~pause_megatron.model.attention.ScaledDotProductAttention`, which keeps no attention matrix, and
:mod:`~pause_megatron.model.cross_entropy`, which keeps little but the logits. The properties below list the tensors
that autograd saves.
"""

from dataclasses import dataclass

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Layout

_FP32 = 4
_INDEX = 8
"""Bytes of a token id, of a position, and of a label (int64)."""
_OF_LABELS = _INDEX + 3 * _FP32
"""Bytes per token that the loss keeps in addition to the logits: the label's column (int64), and in fp32 the row's
maximum and factor, and the gradient at the label."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Activations that one rank keeps of one microbatch, in bytes."""

    model: ModelConfig
    layout: Layout
    vocab_size: int
    """Size of the tokenizer's vocabulary."""
    sequences: int
    """Sequences of the microbatch."""
    seq_length: int
    element: int
    """Bytes of one number in the model's precision."""
    on_cpu: bool = False
    """On CPUs PyTorch computes RMSNorm in fp32 from simple operations, which keep more than its GPU kernel."""

    @property
    def tokens(self) -> int:
        """Tokens of the microbatch."""
        return self.sequences * self.seq_length

    @property
    def _is_llama(self) -> bool:
        return self.model.architecture == "llama"

    @property
    def _own_tokens(self) -> int:
        """Tokens in this rank's residual stream and norms; sequence parallelism divides them."""
        return self.tokens // self.layout.tp if self.layout.sequence_parallel else self.tokens

    @property
    def full_residual(self) -> int:
        """Residual stream at one point, all tokens."""
        return self.tokens * self.model.hidden_size * self.element

    @property
    def residual(self) -> int:
        """Residual stream at one point, this rank's tokens: input and output of a layer, sent to the next stage."""
        return self._own_tokens * self.model.hidden_size * self.element

    @property
    def embeddings(self) -> int:
        """Ids, positions, and with tensor parallelism a mask of the ids in this rank's slice of the vocabulary."""
        positions = 0 if self._is_llama else _INDEX
        return self.tokens * (_INDEX + positions + (self.layout.tp > 1))

    @property
    def layer(self) -> int:
        """One layer without recomputation."""
        return 2 * self.norm + self.attention + self.mlp

    @property
    def norm(self) -> int:
        """Input and statistics of a norm, and its output, which the next matrix product keeps."""
        statistics = self._own_tokens * _FP32 * (1 if self._is_llama else 2)
        if self._is_llama and self.on_cpu:  # RMSNorm: the input and the normalised input, both in fp32
            return self.residual + statistics + 2 * self._own_tokens * self.model.hidden_size * _FP32
        return 2 * self.residual + statistics

    @property
    def attention(self) -> int:
        """Queries, keys and values, the output, and the log-sum-exp of each softmax.

        Queries, keys and values are views of one tensor, and each view keeps the complete tensor. Queries are copied
        if they are grouped, and queries and keys if they are rotated.
        """
        model, tp = self.model, self.layout.tp
        queries, keys = model.query_size, model.key_size
        width = (queries + 2 * keys) + queries  # of the shared tensor, and of the output
        width += queries if self._is_llama or self._copies_queries else 0
        width += keys if self._is_llama else 0
        sums = self.tokens * model.num_attention_heads // tp * _FP32
        # Sines and cosines, separately for queries and keys, shared by all sequences.
        angles = 4 * self.seq_length * model.head_dim * self.element if self._is_llama else 0
        return self.tokens * width // tp * self.element + sums + angles + self.head_norms

    @property
    def _copies_queries(self) -> bool:
        """Whether grouping copies the queries out of the tensor that they share with keys and values."""
        return self.layout.tp < self.model.query_groups < self.model.num_attention_heads

    @property
    def head_norms(self) -> int:
        """Norms of queries and keys: the input, a view of the shared tensor unless it is copied, and statistics."""
        model, rows = self.model, self.tokens // self.layout.tp
        if not model.qk_layernorm:
            return 0
        statistics = rows * (model.num_attention_heads + model.query_groups) * _FP32
        copied = rows * model.query_size * self.element if self._copies_queries else 0
        if not self.on_cpu:
            return statistics + copied
        normalised = rows * (model.query_size + model.key_size) * _FP32
        return statistics + normalised + (copied if self.element == _FP32 else normalised)  # or the input in fp32

    @property
    def mlp(self) -> int:
        """Activations inside an MLP.

        gpt2: input and output of GELU (2). llama: gate and up projection in one tensor (2), SiLU of the gate, a copy of
        the up projection (Megatron-core adds an offset, here 0), and the product.
        """
        return (5 if self._is_llama else 2) * self._in_mlp

    @property
    def mlp_gradients(self) -> int:
        """Gradients of the activations inside an MLP that exist at the same time."""
        return (2 if self._is_llama else 1) * self._in_mlp

    @property
    def _in_mlp(self) -> int:
        return self.tokens * self.model.ffn_size // self.layout.tp * self.element

    @property
    def head(self) -> int:
        """Final norm, and this rank's slice of the logits, which the cross-entropy overwrites with their gradient."""
        logits = self.tokens * padded_vocab_size(self.vocab_size) // self.layout.tp * self.element
        return self.norm + logits + self.tokens * _OF_LABELS

    @property
    def chunk_layers(self) -> int:
        """All layers of one model chunk, with the layout's recomputation."""
        layers = self.model.num_layers // (self.layout.pp * self.layout.vp)
        match self.layout.recompute_granularity:
            case "full":  # inputs of the recomputed blocks, and the table of rotary angles passed to each
                angles = self.seq_length * self.model.head_dim * _FP32 if self._is_llama else 0
                return layers // self.layout.recompute_num_layers * self.residual + angles
            case "selective":
                return layers * (self.layer - self.mlp)
            case "none":
                return layers * self.layer

    @property
    def recomputed(self) -> int:
        """Activations that recomputation temporarily restores in the backward pass."""
        match self.layout.recompute_granularity:
            case "full":
                return self.layout.recompute_num_layers * self.layer - self.residual
            case "selective":
                return self.mlp
            case "none":
                return 0
