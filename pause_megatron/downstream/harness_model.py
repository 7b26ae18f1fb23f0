"""Model for lm-evaluation-harness: its ``hf`` model, with pauses inserted as ids.

The harness words and tokenizes the prompts and scores the answers. This class inserts the pauses and the attention
mask. Without pauses and with causal attention, the results equal those of ``hf``.
"""

import math
from collections.abc import Sequence
from copy import copy
from functools import partialmethod
from itertools import islice
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from pause_megatron.downstream.batching import BorderBatch, TokenRow, align
from pause_megatron.downstream.generation import bad_logits, generation_arguments
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.paused_decoding import reads_pauses
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import PausedTokens

_POSITIONS_AT_ONCE = 16_384
"""Positions of a batch whose logits are all needed: 2 GB in fp32 for a vocabulary of 32,000."""

TokenizedRequest = tuple[tuple[str, str], list[int], list[int]]
"""Texts of context and continuation, and the ids of each."""


class PauseLM(HFLM):
    """``hf`` with pauses in every context."""

    def __init__(self, folder: ModelFolder, pausing: Pausing, batch_size: int) -> None:
        super().__init__(
            folder.model,
            backend="causal",
            tokenizer=folder.tokenizer,
            batch_size=batch_size,
            max_length=folder.context_length,
        )
        self._folder = folder
        self._pausing = pausing
        self._prompts: BorderBatch | None = None
        """The newest batch of prompts, which the harness passes on as ids and mask."""
        self.text_tokens: list[int] = []
        """Tokens of each text that :meth:`loglikelihood_rolling` has scored."""
        self.text_scores: list[float] = []
        """Log-probability of each of them."""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of ``string`` as in finetuning; it continues a text if ``add_special_tokens`` is False."""
        return self._folder.encode(string, begins=add_special_tokens is not False)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-probability, and whether greedy decoding gives it; in order.

        Raises :class:`UserError` for a log-probability that is not finite.
        """
        longest_first = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        scores: dict[int, tuple[float, bool]] = {}
        batch_size = override_bs or self.batch_size
        for start in range(0, len(requests), batch_size):
            chosen = longest_first[start : start + batch_size]
            scores.update(zip(chosen, self._score([requests[i] for i in chosen]), strict=True))
        return [scores[i] for i in range(len(requests))]

    def _score(self, requests: list[TokenizedRequest]) -> list[tuple[float, bool]]:
        # The last token of a continuation is predicted but not read, so it needs no position. The harness moves spaces
        # at the end of a context into its continuation.
        prefixes = [
            self._pausing.prefix(self._folder, text.rstrip(), context, self.max_length - len(continuation) + 1)
            for (text, _), context, continuation in requests
        ]
        targets = [
            self._pausing.target(self._folder, prefix, continuation)
            for prefix, (_, _, continuation) in zip(prefixes, requests, strict=True)
        ]
        read = [PausedTokens(target.ids[:-1], target.is_pause[:-1]) for target in targets]
        batch = self._align(prefixes, read).to(self.device)
        inputs = batch.model_inputs(bidirectional=self._pausing.bidirectional, dtype=self.model.dtype)
        log_probabilities = self.model(**inputs).logits.float().log_softmax(dim=-1)  # [batch, target + 1, vocabulary]
        scores = []
        for row, target, ((text, _), _, ids) in zip(log_probabilities, targets, requests, strict=True):
            continuation = torch.tensor(ids, device=self.device)
            # A row starts at the last prefix position and may be longer than its target. Pauses are not predicted.
            window = row[: len(target)][torch.from_numpy(~target.is_pause).to(self.device)]  # [tokens, vocabulary]
            total = float(window.gather(1, continuation[:, None]).sum())
            if not math.isfinite(total):
                raise bad_logits(self._folder, text)
            scores.append((total, bool((window.argmax(dim=1) == continuation).all())))
        return scores

    def _align(self, prefixes: Sequence[TokenRow], targets: Sequence[TokenRow]) -> BorderBatch:
        return align(prefixes, targets, self._folder.eod_id, shares_positions=self._folder.shares_positions)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: Literal["left", "right"] = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask of contexts with their pauses, each [batch, sequence], padded on the left."""
        assert padding_side == "left"
        room = left_truncate_len or self.max_length
        prefixes = [self._pausing.prefix(self._folder, text, self.tok_encode(text), room) for text in strings]
        self._prompts = self._align(prefixes, [[]] * len(prefixes))
        return self._prompts.input_ids, self._prompts.real.long()

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        """Continue the prefixes ``context``, [batch, sequence]; returns prefixes and continuations."""
        generation_kwargs.pop("attention_mask")
        assert self._prompts is not None
        batch, interleaving = self._prompts.to(self.device), self._pausing.interleaving(self._folder)
        assert torch.equal(batch.input_ids, context)
        arguments = generation_arguments(
            self._folder, batch, bidirectional=self._pausing.bidirectional, settings=generation_kwargs
        )
        arguments = {"eos_token_id": list(self._folder.stop_ids), **generation_kwargs, **arguments}
        with reads_pauses(self.model, batch, interleaving):
            output: torch.Tensor = super()._model_generate(context, max_length, stop, **arguments)
        return output

    # The evaluator does not pass disable_tqdm, and the harness shows progress bars by default.
    generate_until = partialmethod(HFLM.generate_until, disable_tqdm=True)
    loglikelihood = partialmethod(HFLM.loglikelihood, disable_tqdm=True)

    @torch.no_grad()
    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text from its first token on, in order.

        A long text is divided into windows of the model's context, each predicted after the token before it, as the
        harness's ``hf`` model does it. The first token is predicted after the beginning-of-text token, or else after
        the end-of-document token.

        Raises :class:`UserError` for pauses that are not after every token: a complete text has no prompt.
        """
        interleaving = self._pausing.interleaving(self._folder)
        if self._pausing.num_pauses and not interleaving:
            raise UserError(
                "--task: tasks that score complete texts (loglikelihood_rolling) have no prompt to pause after; give"
                " --num-pauses-inf 0, or --pause-placement every"
            )
        length = self.max_length
        if interleaving and not self._folder.shares_positions:
            length = interleaving.most_tokens(length)
        start = (*self._folder.bos_ids, self._folder.eod_id)[0]
        windows: list[TokenizedRequest] = []
        counts = []
        for request in requests:
            [text] = request.args
            ids = self._folder.encode(text, begins=False)
            parts = get_rolling_token_windows(ids, prefix_token=start, max_seq_len=length, context_len=1)
            of_text = [((text, ""), *make_disjoint_window(part)) for part in parts]
            windows += of_text
            counts.append(len(of_text))
            self.text_tokens.append(len(ids))
        batch_size = max(1, min(self.batch_size, _POSITIONS_AT_ONCE // self.max_length))
        of_texts = copy(self)
        if not interleaving:
            of_texts._pausing = Pausing(
                num_pauses=0
            )  # a text has no marker, and no prefix to attend to in both directions
        scores = iter(of_texts._loglikelihood_tokens(windows, override_bs=batch_size))
        found = [sum(score for score, _ in islice(scores, count)) for count in counts]
        self.text_scores += found
        return found
