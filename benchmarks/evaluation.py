#!/usr/bin/env python
"""Documents evaluated per second, compared with lm-evaluation-harness's own ``hf`` model on as many tokens.

    python benchmarks/evaluation.py --data tasks --work work

The nine tasks of the paper on the first documents of real samples, by the same random model, in turn: with 0, 10 and 50
pauses, each against ``hf`` with as many more tokens in its prompts, and with seven numbers of pauses in one evaluation.
``--data`` contains a folder for each task with JSON-lines files in the schema of the Hugging Face hub; tasks without a
folder are skipped.

The decoded answers of a random model do not end, but those of a finetuned one do, after a few tokens. Both sides decode
``--answer-tokens`` tokens for each answer, and half of the task's limit for the solutions of GSM8K.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from generation import random_folder
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from measure import Spread, available_cores, in_turn, load_now, new_parser, require, require_at_least, save_table
from vocabularies import small_tokenizer

from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.shared_requests import AnswersAhead
from pause_megatron.downstream.tasks import Task, load_task
from pause_megatron.tokenizer.huggingface import to_huggingface

TASKS = {
    "gsm8k": "gsm8k",
    "squad": "squad",
    "coqa": "coqa",
    "commonsense_qa": "commonsense_qa",
    "piqa": "piqa",
    "hellaswag": "hellaswag",
    "lambada": "lambada_openai",
    "web_questions": "webqs",
    "natural_questions": "nq_open",
}
"""Folder of the data of each task."""
PAUSES = (0, 10, 50)
SEVERAL = (0, 2, 5, 10, 20, 35, 50)
ONE = 10
"""Number of pauses of the evaluation that one with all of ``SEVERAL`` is compared with."""
TOGETHER = f"ours, M = {' '.join(map(str, SEVERAL))}"


class LongerHF(HFLM):
    """``hf`` with more tokens at the end of every context."""

    def __init__(self, folder: ModelFolder, more: int, batch_size: int) -> None:
        settings: dict[str, Any] = {"tokenizer": folder.tokenizer, "max_length": folder.context_length}
        super().__init__(folder.model, backend="causal", batch_size=batch_size, **settings)
        self._more = [folder.eod_id] * more

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        ids, target = super()._encode_pair(context, continuation)
        return [*ids, *self._more], target

    def tok_batch_encode(
        self, strings: list[str], *arguments: Any, left_truncate_len: int | None = None, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask of contexts with the additional tokens, [batch, sequence]."""
        room = (left_truncate_len or self.max_length) - len(self._more)
        ids, mask = super().tok_batch_encode(strings, *arguments, left_truncate_len=room, **named)
        more = torch.tensor([self._more] * len(ids), dtype=ids.dtype)
        return torch.cat([ids, more], dim=1), torch.cat([mask, torch.ones_like(more)], dim=1)


def stock(num_pauses: int) -> str:
    """Name of the side with the harness's own model."""
    return f"hf, {num_pauses} more tokens"


def ours(num_pauses: int) -> str:
    """Name of the side with one number of pauses."""
    return f"ours, M = {num_pauses}"


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    threads = 1 if arguments.processor_time else available_cores()
    torch.set_num_threads(threads)
    load = load_now()
    tokenizer = small_tokenizer(arguments.work / "evaluation" / "tokenizer")
    ids = (tokenizer.pause_id, tokenizer.eod_id, to_huggingface(tokenizer))
    folder = random_folder("llama", arguments.layers, *ids)
    require(folder.sharing_problem is None, f"--layers {arguments.layers}: the model shares nothing")
    require(folder.branching_problem is None, f"--layers {arguments.layers}: the model takes no mask")
    clock = time.process_time if arguments.processor_time else time.perf_counter
    found: dict[str, dict[str, list[float]]] = {}
    read: dict[str, dict[str, int]] = {}
    rows: list[list[str]] = []
    documents_read = 0
    for name in arguments.tasks:
        task = load_task(name, arguments.data / TASKS[name])
        _limit_answers(task, arguments.answer_tokens)
        documents = list(task.harness.eval_docs)[: arguments.documents]
        documents_read += len(documents)
        sides = _sides(folder, arguments.batch_size, task, len(documents))
        read[name] = {side: _positions(folder, run) for side, run in sides.items()}  # also sets things up
        found[name] = _measure(sides, arguments.repeats, clock)
        prompts = [len(folder.tokenizer.encode(task.harness.doc_to_text(document))) for document in documents]
        label = f"{name} ({sum(prompts) / len(prompts):.0f})"
        rows += [[label, side, *_figures(side, found[name], read[name], len(documents))] for side in sides]
    positions = {side: sum(of_task[side] for of_task in read.values()) for side in read[arguments.tasks[0]]}
    rows += [["all", side, *_figures(side, _sums(found), positions, documents_read)] for side in positions]
    save_table(
        arguments.work,
        "evaluation",
        title="Evaluation",
        text=f"fp32, a Llama with {folder.model.num_parameters() / 1e6:.0f}M parameters, {threads} threads, "
        f"{arguments.documents} documents of each task in batches of {arguments.batch_size}; {arguments.repeats} "
        f"repeats, in turn, in {'processor' if arguments.processor_time else 'wall'} time. "
        f"Decoded answers have {arguments.answer_tokens or 32} tokens, those of gsm8k "
        f"{128 if arguments.answer_tokens else 256}. Median (lowest-highest). In brackets: tokens of the mean prompt. "
        "Positions: those that the model reads, with padding. The last column compares one evaluation with "
        f"{len(SEVERAL)} numbers of pauses with one of M = {ONE}; its positions are compared too.",
        header=["task", "side", "positions", "documents/s", "hf's time / ours", f"time / that of M = {ONE}"],
        rows=rows,
        load=load,
        measurements=found,
    )


def _arguments() -> argparse.Namespace:
    """Flags, with the tasks that have data."""
    parser = new_parser(__doc__, repeats=3)
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks (default: all nine)")
    parser.add_argument("--documents", type=int, default=16, help="documents of each task (default: 16)")
    parser.add_argument(
        "--answer-tokens", type=int, default=8, help="tokens of a decoded answer; 0: the task's limit (default: 8)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="prompts in a batch (default: 16)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the model (default: 6)")
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time with one thread, on a busy machine"
    )
    arguments = parser.parse_args()
    require_at_least(1, arguments, "documents", "batch_size", "layers", "repeats")
    require(arguments.answer_tokens >= 0, f"--answer-tokens {arguments.answer_tokens}: must be at least 0")
    tasks = [name for name in arguments.tasks if (arguments.data / TASKS[name]).is_dir()]
    for name in arguments.tasks:
        if name not in tasks:
            print(f"--data {arguments.data}: has no folder {TASKS[name]}; {name} is skipped", flush=True)
    require(bool(tasks), f"--data {arguments.data}: has no folder of a task")
    arguments.tasks = tasks
    return arguments


def _limit_answers(task: Task, tokens: int) -> None:
    settings = task.harness.config.generation_kwargs
    if tokens and task.harness.OUTPUT_TYPE == "generate_until":
        settings["max_gen_toks"] = settings["max_gen_toks"] // 2 if task.name == "gsm8k" else tokens


def _positions(folder: ModelFolder, evaluate: Callable[[], None]) -> int:
    """Positions that the model reads, with padding."""
    read = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        nonlocal read
        read += (inputs[0] if inputs else named["input_ids"]).numel()

    handle = folder.model.register_forward_pre_hook(count, with_kwargs=True)
    evaluate()
    handle.remove()
    return read


def _sums(found: dict[str, dict[str, list[float]]]) -> dict[str, list[float]]:
    """Seconds of each side on all tasks, by repeat."""
    sides = next(iter(found.values()))
    return {
        side: [sum(each) for each in zip(*(of_task[side] for of_task in found.values()), strict=True)] for side in sides
    }


def _figures(side: str, seconds: dict[str, list[float]], positions: dict[str, int], documents: int) -> list[str]:
    """Columns of one side; ``seconds`` and ``positions`` are those of all sides."""
    answered = documents * (len(SEVERAL) if side == TOGETHER else 1)
    rate = Spread.of(answered / taken for taken in seconds[side]).show(digits=1)
    if side == TOGETHER:
        ratio = Spread.ratio(seconds[side], seconds[ours(ONE)]).show(bold=True)
        return [f"{positions[side]} ({positions[side] / positions[ours(ONE)]:.2f})", rate, "", ratio]
    theirs = {ours(number): stock(number) for number in PAUSES}.get(side)
    ratio = Spread.ratio(seconds[theirs], seconds[side]).show(bold=True) if theirs else ""
    return [str(positions[side]), rate, ratio, ""]


def _sides(folder: ModelFolder, batch_size: int, task: Task, documents: int) -> dict[str, Callable[[], None]]:
    """Evaluations of ``task``, each of which loads nothing."""

    def evaluate(*models: HFLM) -> None:
        for model in models:
            options: dict[str, Any] = {"limit": documents, "log_samples": False, "bootstrap_iters": 0}
            evaluator.evaluate(model, {task.name: task.harness}, **options)

    def evaluate_ours(numbers: tuple[int, ...]) -> None:
        pausings = [Pausing(num_pauses=number) for number in numbers]
        ahead = AnswersAhead(folder, pausings)
        evaluate(*(PauseLM(folder, pausing, batch_size, ahead) for pausing in pausings))

    sides: dict[str, Callable[[], None]] = {}
    for number in PAUSES:
        sides[stock(number)] = partial(evaluate, LongerHF(folder, number, batch_size))
        sides[ours(number)] = partial(evaluate_ours, (number,))
    sides[TOGETHER] = partial(evaluate_ours, SEVERAL)
    return sides


def _measure(sides: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of every evaluation by ``clock``."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name in in_turn(sides, repeat):
            started = clock()
            sides[name]()
            seconds[name].append(clock() - started)
    return seconds


if __name__ == "__main__":
    main()
