"""Logit lens (nostalgebraist 2020) at each pause: what the hidden states after each layer would predict.

The model ignores its outputs at pauses, apart from the last one, so this shows what they hold: nothing readable, the
answer, or parts of a computation, as in models that were finetuned with hints.
"""

from collections import Counter
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from pause_megatron.downstream.diagnosis.probes import Probe
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.errors import UserError
from pause_megatron.records.diagnosis import LensRecord

_FINAL_NORMS = ("ln_f", "norm", "final_layer_norm")
"""Names of the norm before the output layer, in GPT-2, in Llama and its relatives, and in GPT-NeoX."""


class LogitLens:
    """Running sums over prompts for each layer and pause."""

    def __init__(self, folder: ModelFolder, num_pauses: int) -> None:
        self._tokenizer = folder.tokenizer
        self._norm, self._head = final_norm(folder.model), folder.model.get_output_embeddings()
        self._depth = folder.model.config.num_hidden_layers
        shape = self._depth + 1, num_pauses
        self._hits = torch.zeros(shape, dtype=torch.float64)
        self._log_probabilities = torch.zeros(shape, dtype=torch.float64)
        self._entropies = torch.zeros(shape, dtype=torch.float64)
        self._tops: list[list[Counter[int]]] = [[Counter() for _ in range(num_pauses)] for _ in range(self._depth + 1)]
        self._prompts = 0

    def add(self, probe: Probe, hidden_states: tuple[torch.Tensor, ...]) -> None:
        """Add one batch; ``hidden_states`` has the embeddings and the output of each layer, [batch, sequence, H].

        Transformers applies the final norm to the last of them itself.
        """
        rows = len(probe.is_pause)
        answer = probe.targets[:, :1]  # [batch, 1]
        self._prompts += rows
        for layer, states in enumerate(hidden_states):
            at_pauses = states[probe.is_pause].view(rows, -1, states.shape[-1])  # [batch, pauses, H]
            logits = self._head(at_pauses if layer == self._depth else self._norm(at_pauses)).float()
            log_probabilities = logits.log_softmax(dim=-1)  # [batch, pauses, vocabulary]
            top = log_probabilities.argmax(dim=-1)
            of_answer = log_probabilities.gather(-1, answer[:, None].expand(-1, top.shape[1], -1))[..., 0]
            self._hits[layer] += (top == answer).sum(dim=0).cpu()
            self._log_probabilities[layer] += of_answer.double().sum(dim=0).cpu()
            self._entropies[layer] -= (log_probabilities.exp() * log_probabilities).double().sum(dim=(0, 2)).cpu()
            for pause, tokens in enumerate(top.T.tolist()):
                self._tops[layer][pause].update(tokens)

    def records(self) -> tuple[LensRecord, ...]:
        """Return one record for the embeddings and one for each layer."""
        found = []
        for layer, counters in enumerate(self._tops):
            tops = [counter.most_common(1)[0] for counter in counters]
            found.append(
                LensRecord(
                    layer=layer,
                    answer_share=tuple((self._hits[layer] / self._prompts).tolist()),
                    answer_log_probability=tuple((self._log_probabilities[layer] / self._prompts).tolist()),
                    entropy=tuple((self._entropies[layer] / self._prompts).tolist()),
                    top_token=tuple(self._tokenizer.decode([token]) for token, _ in tops),
                    top_share=tuple(count / self._prompts for _, count in tops),
                )
            )
        return tuple(found)


def final_norm(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the norm before the output layer. Raises :class:`UserError` if it has none of the usual names."""
    for name in _FINAL_NORMS:
        if (found := getattr(model.base_model, name, None)) is not None:
            return found  # type: ignore[no-any-return]
    raise UserError(
        f"--model: {type(model).__name__} has no final norm named {', '.join(_FINAL_NORMS)}; diagnose a GPT-2 or Llama"
        " model"
    )
