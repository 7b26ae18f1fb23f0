"""Model for lm-evaluation-harness: its ``hf`` model, with pauses inserted as ids.

The harness words and tokenizes the prompts and scores the answers. This class inserts the pauses and the attention
mask. Without pauses and with causal attention, the results equal those of ``hf``.
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
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
from pause_megatron.downstream.shared_decoding import DecodedRequest, decode_group, greedy_groups
from pause_megatron.downstream.shared_prefixes import Branch, shared_prefixes
from pause_megatron.downstream.shared_requests import AnswersAhead, Key, Score, SharedReader, raise_errors
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import PausedTokens

_POSITIONS_AT_ONCE = 16_384
"""Positions of a batch whose logits are all needed: 2 GB in fp32 for a vocabulary of 32,000."""

TokenizedRequest = tuple[tuple[str, str], list[int], list[int]]
"""Texts of context and continuation, and the ids of each."""


@dataclass(frozen=True)
class _Row:
    """One continuation to score."""

    key: Key
    prefix: PausedTokens
    target: PausedTokens
    """The continuation with its pauses."""
    continuation: list[int]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.target)

    def branch(self, run: int) -> Branch:
        """Return the continuation as a branch of its prefix, which ends with a run of ``run`` pauses."""
        return Branch(self.key, run, self.continuation)


def _row(folder: ModelFolder, pausing: Pausing, request: TokenizedRequest, key: Key) -> _Row:
    (text, _), context, continuation = request
    # The last token of a continuation is predicted but not read, so it needs no position. The harness moves spaces
    # at the end of a context into its continuation.
    prefix = pausing.prefix(folder, text.rstrip(), context, folder.context_length - len(continuation) + 1)
    return _Row(key, prefix, pausing.target(folder, prefix, continuation), continuation)


class PauseLM(HFLM):
    """``hf`` with pauses in every context."""

    def __init__(
        self, folder: ModelFolder, pausing: Pausing, batch_size: int, ahead: AnswersAhead | None = None
    ) -> None:
        """Evaluate with ``pausing``. Answers for later pausings of ``ahead`` are found together with the first ones."""
        super().__init__(
            folder.model,
            backend="causal",
            tokenizer=folder.tokenizer,
            batch_size=batch_size,
            max_length=folder.context_length,
        )
        self._folder = folder
        self._pausing = pausing
        self._ahead = AnswersAhead(folder, [pausing]) if ahead is None else ahead
        self._prompts: BorderBatch | None = None
        """The newest batch of prompts, which the harness passes on as ids and mask."""
        self.text_tokens: list[int] = []
        """Tokens of each text that :meth:`loglikelihood_rolling` has scored."""
        self.text_scores: list[float] = []
        """Log-probability of each of them."""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of ``string`` as in finetuning; it continues a text if ``add_special_tokens`` is False."""
        return self._folder.encode(string, begins=add_special_tokens is not False)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[Score]:
        """Return the score of each continuation, in order.

        Raises :class:`UserError` for pauses that leave no room and for logits that are not finite.
        """
        found = self._ahead.take(self._pausing, "loglikelihood", [request.args for request in requests])
        # The evaluator does not pass disable_tqdm, and the harness shows progress bars by default.
        return super().loglikelihood(requests, disable_tqdm=True) if found is None else found

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: list[TokenizedRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Score]:
        """Return each continuation's log-probability, and whether greedy decoding gives it; in order.

        With ``override_bs``, each request is read by itself, without those for other numbers of pauses.

        Raises :class:`UserError` for a log-probability that is not finite.
        """
        pausings = self._ahead.with_later(self._pausing) if override_bs is None else [self._pausing]
        answers: dict[Key, Score | UserError] = {}
        rows = []
        for number, pausing in enumerate(pausings):
            for index, request in enumerate(requests):
                try:
                    rows.append(_row(self._folder, pausing, request, (number, index)))
                except UserError as error:
                    if not number:
                        raise
                    answers[number, index] = error
        alone = rows
        if override_bs is None and self._pausing.interleaving(self._folder) is None and self._ahead.shares:
            prefixes = shared_prefixes([(row.prefix, row.branch(pausings[row.key[0]].shared_run)) for row in rows])
            shared = [prefix for prefix in prefixes if len(prefix.branches) > 1]
            reader = SharedReader(self._folder, self.batch_size, bidirectional=self._pausing.bidirectional)
            answers |= reader.scores(shared)
            alone = [row for row in rows if row.key not in answers]
        alone.sort(key=lambda row: -len(row))
        batch_size = override_bs or self.batch_size
        for start in range(0, len(alone), batch_size):
            answers |= self._scores(alone[start : start + batch_size])
        for key, answer in answers.items():
            if not isinstance(answer, UserError) and not math.isfinite(answer[0]):
                answers[key] = bad_logits(self._folder, requests[key[1]][0][0])
        for number, pausing in enumerate(pausings[1:], start=1):
            of_pausing = [answers[number, index] for index in range(len(requests))]
            self._ahead.keep(pausing, "loglikelihood", [texts for texts, _, _ in requests], of_pausing)
        return raise_errors([answers[0, index] for index in range(len(requests))])

    def _scores(self, rows: Sequence[_Row]) -> dict[Key, Score]:
        """Score rows that share nothing, as one batch."""
        read = [PausedTokens(row.target.ids[:-1], row.target.is_pause[:-1]) for row in rows]
        batch = self._align([row.prefix for row in rows], read).to(self.device)
        inputs = batch.model_inputs(bidirectional=self._pausing.bidirectional, dtype=self.model.dtype)
        log_probabilities = self.model(**inputs).logits.float().log_softmax(dim=-1)  # [batch, target + 1, vocabulary]
        scores = {}
        for of_row, row in zip(log_probabilities, rows, strict=True):
            continuation = torch.tensor(row.continuation, device=self.device)
            # A row starts at the last prefix position and may be longer than its target. Pauses are not predicted.
            is_predicted = torch.from_numpy(~row.target.is_pause).to(self.device)
            window = of_row[: len(row.target)][is_predicted]  # [tokens, vocabulary]
            total = float(window.gather(1, continuation[:, None]).sum())
            scores[row.key] = (total, bool((window.argmax(dim=1) == continuation).all()))
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

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return the text after each context, up to its stop texts; in order.

        Raises the errors of :meth:`loglikelihood`.
        """
        arguments = [request.args for request in requests]
        found = self._ahead.take(self._pausing, "generate_until", arguments)
        if found is None and self._pausing.interleaving(self._folder) is None and self._ahead.shares:
            found = self._decode(arguments)
        return super().generate_until(requests, disable_tqdm=True) if found is None else found

    def _decode(self, arguments: list[DecodedRequest]) -> list[str] | None:
        """Answer the requests of :meth:`generate_until`, also for later pausings; None if one is not greedy."""
        if (groups := greedy_groups(self, arguments)) is None:
            return None
        pausings = self._ahead.with_later(self._pausing)
        answers: dict[Key, str | UserError] = {}
        for group in groups:
            answers |= decode_group(self, self._folder, group, pausings, self._decode_unshared)
        for number, pausing in enumerate(pausings[1:], start=1):
            of_pausing = [answers[number, index] for index in range(len(arguments))]
            self._ahead.keep(pausing, "generate_until", arguments, of_pausing)
        texts = raise_errors([answers[0, index] for index in range(len(arguments))])
        for request, text in zip(arguments, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request, text)
        return texts

    def _decode_unshared(self, pausing: Pausing, arguments: list[DecodedRequest]) -> list[str]:
        """Answer requests of :meth:`generate_until` with ``pausing`` by stock ``generate``."""
        other = copy(self)
        other._pausing = pausing
        requests = [Instance("generate_until", {}, each, index) for index, each in enumerate(arguments)]
        texts: list[str] = HFLM.generate_until(other, requests, disable_tqdm=True)
        return texts

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
