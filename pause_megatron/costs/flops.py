"""Floating-point operations of training on one sequence.

Matrix products only, a multiplication and its addition counting as two operations. A pause costs what any token costs,
so a sequence with pauses costs what any sequence of its length does.

Two counts, by the convention of PaLM (arXiv 2204.02311, appendix B): *model* operations are what the mathematics asks
for, forward and twice that backward, and are what MFU divides by the device's peak; *hardware* operations are those
the implementation performs, with everything it computes a second time.

Causal attention is counted in full, ``sequence^2``, as in PaLM, Megatron-LM's papers and torchtitan, though half of the
scores are masked. Megatron-LM's program has since come to count half; :attr:`ForwardFlops.causal` is for comparing with
it. The output layer is counted with the padded vocabulary, which is what is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Recomputation


@dataclass(frozen=True, kw_only=True)
class ForwardFlops:
    """Operations of one forward pass over one sequence, all layers."""

    projections: int
    """Queries, keys, values, and the projection back to the hidden size."""
    attention: int
    """Scores and weighted values, every position with every other."""
    mlp: int
    """The MLPs."""
    output: int
    """Output layer."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.projections + self.attention + self.mlp + self.output

    @property
    def causal(self) -> int:
        """All of them with half of the attention: what a perfectly causal kernel needs."""
        return self.total - self.attention // 2


@dataclass(frozen=True, kw_only=True)
class TrainingFlops:
    """Operations of training on one sequence."""

    forward: ForwardFlops
    """The forward pass."""
    scores: int
    """Attention scores, which the fused kernels do not keep and compute again in the backward pass."""
    recomputed: int
    """What ``--recompute-granularity`` computes again."""

    @property
    def model(self) -> int:
        """Forward and backward, each product of the forward pass having two in the backward pass: what MFU counts."""
        return 3 * self.forward.total

    @property
    def hardware(self) -> int:
        """What is performed: with all that is computed twice."""
        return self.model + self.scores + self.recomputed


def forward_flops(model: ModelConfig, *, vocab_size: int, seq_length: int) -> ForwardFlops:
    """Operations of a forward pass over ``seq_length`` tokens; ``vocab_size`` is the tokenizer's."""
    hidden, layers = model.hidden_size, model.num_layers
    key_value = model.query_groups * model.head_dim
    matrices = 3 if model.architecture == "llama" else 2
    return ForwardFlops(
        projections=layers * 2 * seq_length * hidden * (2 * hidden + 2 * key_value),
        attention=layers * 2 * 2 * seq_length * seq_length * hidden,  # scores, and values weighted by them
        mlp=layers * 2 * seq_length * hidden * model.ffn_size * matrices,
        output=2 * seq_length * hidden * padded_vocab_size(vocab_size),
    )


def training_flops(
    model: ModelConfig, *, vocab_size: int, seq_length: int, recompute_granularity: Recomputation = "none"
) -> TrainingFlops:
    """Operations of training on a sequence of ``seq_length`` tokens; ``vocab_size`` is the tokenizer's."""
    forward = forward_flops(model, vocab_size=vocab_size, seq_length=seq_length)
    recomputed = {"none": 0, "selective": forward.mlp, "full": forward.total - forward.output}
    return TrainingFlops(forward=forward, scores=forward.attention // 2, recomputed=recomputed[recompute_granularity])


def paper_layer_flops(*, num_tokens: int, num_heads: int, head_dim: int, hidden_size: int) -> int:
    """A layer's forward pass over ``num_tokens`` as Goyal et al. 2024, appendix I, count: ``4nadh + 2an^2d + 8nh^2``.

    These are multiplications with their additions, one each: half of what :func:`forward_flops` counts for a layer of
    the paper's kind, whose MLP is four times as wide as the model. Comparisons at equal cost are of ratios, and come
    out alike.
    """
    heads = num_heads * head_dim
    return 4 * num_tokens * heads * hidden_size + 2 * num_tokens**2 * heads + 8 * num_tokens * hidden_size**2
