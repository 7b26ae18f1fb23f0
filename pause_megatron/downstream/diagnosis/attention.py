"""Attention to and from pauses, by layer and head.

For each query position, the attention weights over all keys sum to 1. The share of a group of keys, such as the
pauses, is the sum of their weights, averaged over the queries of a group and over all prompts. Compare it with the
share that uniform attention would give: a group with more positions gets more attention by itself.
"""

from typing import Any

import torch
from transformers import PreTrainedModel

from pause_megatron.downstream.diagnosis.probes import Probe
from pause_megatron.errors import UserError
from pause_megatron.records.diagnosis import AttentionRecord, Positions

PAIRS: tuple[tuple[Positions, Positions], ...] = (
    ("answer", "pauses"),
    ("answer", "prompt"),
    ("pauses", "prompt"),
    ("pauses", "pauses"),
    ("prompt", "pauses"),
)
"""Queries and keys that are reported. ``prompt`` sees pauses only with bidirectional attention, or if they precede."""


class AttentionShares:
    """Running means of attention shares. Use it as a context manager around the forward passes.

    The model must use eager attention, the only kind that returns its weights.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Find the attention layers. Raises :class:`UserError` if the architecture's are not named as usual."""
        self._layers = [
            module
            for module in model.modules()
            if type(module).__name__.endswith("Attention") and getattr(module, "layer_idx", None) is not None
        ]
        if len(self._layers) != model.config.num_hidden_layers:
            raise UserError(
                f"--model: {type(model).__name__} has {len(self._layers)} attention layers that can be read, not"
                f" {model.config.num_hidden_layers}; diagnose a GPT-2 or Llama model"
            )
        self._sums: list[torch.Tensor | None] = [None] * len(self._layers)
        self._uniform = torch.zeros(3, 3, dtype=torch.float64)
        self._queries = torch.zeros(3, dtype=torch.float64)
        self._hooks: list[Any] = []
        self._query_groups = self._key_groups = torch.empty(0)

    def __enter__(self) -> "AttentionShares":
        for index, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(lambda *found, index=index: self._add(index, found[-1][1])))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def start(self, probe: Probe, mask: torch.Tensor) -> None:
        """Announce the batch of the next forward pass; ``mask`` is its additive mask, [batch, 1, query, key]."""
        keys = [probe.is_prompt, probe.is_pause, probe.is_answer]
        queries = [probe.is_prompt, probe.is_pause, probe.predicts_answer]
        self._key_groups = torch.stack(keys, dim=-1).float()  # [batch, key, group]
        self._query_groups = torch.stack(queries, dim=-1).float()
        self._queries += self._query_groups.sum(dim=(0, 1)).cpu()
        sees = (mask == 0).float()
        self._uniform += self._shares(sees / sees.sum(dim=-1, keepdim=True))[0].cpu()

    def _add(self, index: int, weights: torch.Tensor) -> None:
        shares, before = self._shares(weights.float()), self._sums[index]
        self._sums[index] = shares if before is None else before + shares

    def _shares(self, weights: torch.Tensor) -> torch.Tensor:
        """Sum the shares of each group of keys over each group of queries.

        ``weights`` has shape [batch, head, query, key]. Returns fp64 [head, query group, key group].
        """
        by_query = torch.einsum("bhqk,bkg->bhqg", weights, self._key_groups)
        return torch.einsum("bqf,bhqg->hfg", self._query_groups.double(), by_query.double())

    def records(self) -> tuple[AttentionRecord, ...]:
        """Return the means, for the pairs whose queries exist."""
        groups: tuple[Positions, ...] = ("prompt", "pauses", "answer")
        found = []
        for queries, keys in PAIRS:
            query, key = groups.index(queries), groups.index(keys)
            count = float(self._queries[query])
            if count:
                heads = [(sums[:, query, key] / count).tolist() for sums in self._sums if sums is not None]
                uniform = float(self._uniform[query, key] / count)
                found.append(
                    AttentionRecord(queries=queries, keys=keys, uniform=uniform, heads=tuple(map(tuple, heads)))
                )
        return tuple(found)
