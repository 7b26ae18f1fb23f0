"""Floating-point operations of training on one sequence.

Counts matrix products only; a multiplication and its addition are two operations. A pause costs as much as any token.

There are two counts, as in PaLM (arXiv 2204.02311, appendix B). *Model* operations are those of the mathematics, one
forward pass and twice that for the backward pass; MFU divides them by the device's peak. *Hardware* operations are
those that the implementation performs, including recomputation.

Causal attention counts in full, ``sequence^2``, as in PaLM, Megatron-LM's papers and torchtitan, although half of the
scores are masked. Megatron-LM's program now counts half; use :attr:`ForwardFlops.causal` to compare with it. The output
layer counts with the padded vocabulary, which is multiplied too.
"""

from dataclasses import dataclass

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Recomputation


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Operations of one forward pass over one sequence, in all layers."""

    projections: int
    """Projections to queries, keys and values, and back to the hidden size."""
    attention: int
    """Scores and weighted values, all pairs of positions."""
    mlp: int
    output: int

    @property
    def total(self) -> int:
        """Sum."""
        return self.projections + self.attention + self.mlp + self.output

    @property
    def causal(self) -> int:
        """Sum with half of the attention, as a perfectly causal kernel needs."""
        return self.total - self.attention // 2


@dataclass(frozen=True, kw_only=True)
class TrainingFlops:
    """Operations of training on one sequence."""

    forward: ForwardFlops
    scores: int
    """Attention scores, which the fused kernels recompute in the backward pass."""
    recomputed: int
    """Recomputation by ``--recompute-granularity``."""

    @property
    def model(self) -> int:
        """Forward and backward, as MFU counts them; each product has two products in the backward pass."""
        return 3 * self.forward.total

    @property
    def hardware(self) -> int:
        """Operations performed, including recomputation."""
        return self.model + self.scores + self.recomputed


def forward_flops(model: ModelConfig, *, vocab_size: int, seq_length: int) -> ForwardFlops:
    """Return the operations of a forward pass over ``seq_length`` tokens; ``vocab_size`` is the tokenizer's."""
    hidden, layers, queries = model.hidden_size, model.num_layers, model.query_size
    matrices = 3 if model.architecture == "llama" else 2
    return ForwardFlops(
        projections=layers * 2 * seq_length * hidden * (2 * queries + 2 * model.key_size),
        attention=layers * 2 * 2 * seq_length * seq_length * queries,  # scores, and values weighted by them
        mlp=layers * 2 * seq_length * hidden * model.ffn_size * matrices,
        output=2 * seq_length * hidden * padded_vocab_size(vocab_size),
    )


def training_flops(
    model: ModelConfig, *, vocab_size: int, seq_length: int, recompute_granularity: Recomputation = "none"
) -> TrainingFlops:
    """Return the operations of training on ``seq_length`` tokens; ``vocab_size`` is the tokenizer's."""
    forward = forward_flops(model, vocab_size=vocab_size, seq_length=seq_length)
    recomputed = {"none": 0, "selective": forward.mlp, "full": forward.total - forward.output}
    return TrainingFlops(forward=forward, scores=forward.attention // 2, recomputed=recomputed[recompute_granularity])


def paper_layer_flops(*, num_tokens: int, num_heads: int, head_dim: int, hidden_size: int) -> int:
    """Return a layer's forward operations by Goyal et al. 2024, appendix I: ``4nadh + 2an^2d + 8nh^2``.

    The paper counts a multiplication and its addition as one, so this is half of :func:`forward_flops` for a layer with
    the paper's MLP (four times the hidden size). Ratios of costs are the same.
    """
    heads = num_heads * head_dim
    return 4 * num_tokens * heads * hidden_size + 2 * num_tokens**2 * heads + 8 * num_tokens * hidden_size**2
