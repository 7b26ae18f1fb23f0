"""The matrix products of a training step on the CPU, and nothing else: the least time that the step can take.

Of every layer the products of queries, keys and values, attention scores, weighted values, projection and MLP, and in
the end the logits: forward, then backward with the gradient of the input, and that of the weight, which is added to a
buffer. The tensors are random and have the shapes of the step. Products with weights are those of the project's layers,
oneDNN's and MKL's; the others are MKL's. Attention counts in full, although half of the scores are masked.

Shape letters: N rows (sequence x batch), I input features, O output features, B batch, G key/value heads, S sequence,
Q queries of a key/value head (S for each query head that shares it), D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pause_megatron.config.model import ModelConfig
from pause_megatron.model.linear import add_product, product


class _WeightProducts:
    """The three products of a linear layer."""

    def __init__(self, rows: int, inputs: int, outputs: int) -> None:
        self._input, self._gradient = torch.randn(rows, inputs), torch.randn(rows, outputs)  # [N, I], [N, O]
        self._weight, self._total = torch.randn(outputs, inputs), torch.zeros(outputs, inputs)  # [O, I]

    def forward(self) -> None:
        product(self._input, self._weight)

    def backward(self) -> None:
        product(self._gradient, self._weight.t())
        add_product(self._total, self._gradient, self._input)


class _AttentionProducts:
    """The two products of an attention layer, and the four of its backward pass."""

    def __init__(self, batch: int, sequence: int, model: ModelConfig) -> None:
        heads = batch * model.query_groups
        queries = sequence * (model.num_attention_heads // model.query_groups)
        self._query, self._gradient = (torch.randn(heads, queries, model.head_dim) for _ in range(2))  # [B * G, Q, D]
        self._key, self._value = (torch.randn(heads, sequence, model.head_dim) for _ in range(2))  # [B * G, S, D]
        self._scores = torch.randn(heads, queries, sequence)  # [B * G, Q, S]

    def forward(self) -> None:
        self._query @ self._key.mT
        self._scores @ self._value

    def backward(self) -> None:
        self._gradient @ self._value.mT
        self._scores.mT @ self._gradient
        self._scores @ self._key
        self._scores.mT @ self._query


def matrix_products(model: ModelConfig, *, vocab_size: int, seq_length: int, batch_size: int) -> Callable[[], None]:
    """Return a function that computes the products of a step of ``batch_size`` sequences in one microbatch."""
    rows, hidden = batch_size * seq_length, model.hidden_size
    matrices = 2 if model.architecture == "llama" else 1  # [gate; up] are one
    parts: list[_WeightProducts | _AttentionProducts] = []
    for _ in range(model.num_layers):
        parts += [
            _WeightProducts(rows, hidden, model.query_size + 2 * model.key_size),
            _AttentionProducts(batch_size, seq_length, model),
            _WeightProducts(rows, model.query_size, hidden),
            _WeightProducts(rows, hidden, matrices * model.ffn_size),
            _WeightProducts(rows, model.ffn_size, hidden),
        ]
    parts.append(_WeightProducts(rows, hidden, vocab_size))

    @torch.no_grad()
    def step() -> None:
        for part in parts:
            part.forward()
        for part in reversed(parts):
            part.backward()

    return step
