"""Parameters that one process holds, under any layout.

They depend on the pipeline stage alone: every tensor-parallel process of a stage holds as many, and every data-parallel
one. (ZeRO-3 then divides them further, see :mod:`~pause_megatron.costs.optimizer_state`.)
"""

from __future__ import annotations

from dataclasses import dataclass

from pause_megatron.config.model import ModelConfig, padded_vocab_size
from pause_megatron.config.parallel import Layout


@dataclass(frozen=True, kw_only=True)
class StageParameters:
    """Parameters of one process of a pipeline stage."""

    embeddings: int
    """Word embeddings, padding rows included, and learned positions; the first stage's."""
    layers: int
    """Transformer layers."""
    output: int
    """Final norm and output layer; the last stage's. With tied embeddings the output layer counts where the stage has
    no word embeddings of its own, and has to keep a copy."""
    largest: int
    """Size of the largest one."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.layers + self.output


def stage_parameters(model: ModelConfig, layout: Layout, *, vocab_size: int, stage: int) -> StageParameters:
    """Parameters of a process of pipeline stage ``stage``, 0 to ``layout.pp - 1``.

    ``vocab_size`` is the tokenizer's. Chunks of an interleaved schedule divide a stage without changing what it holds.
    """
    hidden, ffn = model.hidden_size, model.ffn_size
    first, last = stage == 0, stage == layout.pp - 1
    vocabulary = padded_vocab_size(vocab_size) * hidden // layout.tp
    positions = model.max_position_embeddings * hidden if model.architecture == "gpt2" else 0
    own_output = model.untie_embeddings_and_output_weights or not first
    mlp_in = hidden * ffn * (2 if model.architecture == "llama" else 1) // layout.tp
    return StageParameters(
        embeddings=vocabulary + positions if first else 0,
        layers=model.num_layers // layout.pp * layer_parameters(model, tp=layout.tp),
        output=norm_parameters(model) + (vocabulary if own_output else 0) if last else 0,
        largest=max(mlp_in, positions if first else 0, vocabulary if first or last else 0),
    )


def layer_parameters(model: ModelConfig, *, tp: int) -> int:
    """Parameters of one layer on one of ``tp`` tensor-parallel processes.

    Matrices are divided, and so are the biases where that divides the output (queries, keys and values; the MLP's first
    matrix). Norms, and biases that are added after a reduction, are on every process.
    """
    hidden, ffn = model.hidden_size, model.ffn_size
    query_key_value = hidden + 2 * model.query_groups * model.head_dim
    attention = hidden * query_key_value + hidden * hidden
    norms = 2 * norm_parameters(model)
    if model.architecture == "llama":
        return (attention + 3 * hidden * ffn) // tp + norms
    return (attention + 2 * hidden * ffn + query_key_value + ffn) // tp + 2 * hidden + norms


def norm_parameters(model: ModelConfig) -> int:
    """Parameters of one norm: scales, and for LayerNorm shifts."""
    return model.hidden_size * (1 if model.architecture == "llama" else 2)
