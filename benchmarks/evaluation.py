#!/usr/bin/env python
"""Documents evaluated per second with and without pauses, compared with lm-evaluation-harness's own ``hf`` model.

    python benchmarks/evaluation.py --data tasks --work work

One task of each kind (generated text, scored choices, scored last word) on the first documents of real samples, by the
same random model, in turn. ``--data`` contains the folders webqs, piqa and lambada_openai with JSON-lines files in the
schema of the Hugging Face hub. The last column shows how many tokens the pauses add to a prompt.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from generation import CONTEXT_LENGTH, random_folder
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from measure import Spread, available_cores, in_turn, load_now, new_parser, require, require_at_least, save_table
from vocabularies import small_tokenizer

from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import Task, load_task
from pause_megatron.tokenizer.huggingface import to_huggingface

TASKS = {"web_questions": "webqs", "piqa": "piqa", "lambada": "lambada_openai"}
PAUSES = (0, 10, 50)
STOCK = "hf"


@dataclass(frozen=True)
class Side:
    """One harness model."""

    name: str
    num_pauses: int
    model: HFLM


def main() -> None:
    """Measure and print the table."""
    parser = new_parser(__doc__, repeats=5)
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--documents", type=int, default=64, help="documents of each task (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts in a batch (default: 16)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the model (default: 6)")
    arguments = parser.parse_args()
    for name in TASKS.values():
        require((arguments.data / name).is_dir(), f"--data {arguments.data}: has no folder {name}")
    require_at_least(1, arguments, "documents", "batch_size", "layers", "repeats")
    torch.set_num_threads(available_cores())
    load = load_now()
    tokenizer = small_tokenizer(arguments.work / "evaluation" / "tokenizer")
    ids = (tokenizer.pause_id, tokenizer.eod_id, to_huggingface(tokenizer))
    folder = random_folder("llama", arguments.layers, *ids)
    sides = _sides(folder, arguments.batch_size)
    found: dict[str, dict[str, list[float]]] = {}
    rows: list[list[str]] = []
    for name, data in TASKS.items():
        task = load_task(name, arguments.data / data)
        found[name] = _measure(task, sides, arguments.documents, arguments.repeats)
        texts = [task.harness.doc_to_text(document) for document in list(task.harness.eval_docs)[: arguments.documents]]
        prompt = sum(len(folder.tokenizer.encode(text)) for text in texts) / len(texts)
        for side in sides:
            rate = Spread.of(arguments.documents / seconds for seconds in found[name][side.name])
            ratio = (
                Spread.ratio(found[name][STOCK], found[name][side.name]).show(bold=True) if side.name != STOCK else ""
            )
            rows.append([name, side.name, rate.show(digits=1), ratio, f"{prompt + side.num_pauses:.0f} / {prompt:.0f}"])
    save_table(
        arguments.work,
        "evaluation",
        title="Evaluation",
        text=f"fp32, a Llama with {folder.model.num_parameters() / 1e6:.0f}M parameters, {available_cores()} threads, "
        f"{arguments.documents} documents of each task in batches of {arguments.batch_size}; {arguments.repeats} "
        "repeats, in turn. Median (lowest-highest). Tokens: the mean prompt with its pauses / without.",
        header=["task", "side", "documents/s", "hf's time / ours", "tokens"],
        rows=rows,
        load=load,
        measurements=found,
    )


def _sides(folder: ModelFolder, batch_size: int) -> list[Side]:
    settings = {"tokenizer": folder.tokenizer, "batch_size": batch_size, "max_length": CONTEXT_LENGTH}
    stock = Side(STOCK, 0, HFLM(folder.model, backend="causal", **settings))
    ours = [Side(f"ours, M = {n}", n, PauseLM(folder, Pausing(num_pauses=n), batch_size)) for n in PAUSES]
    return [stock, *ours]


def _measure(task: Task, sides: list[Side], documents: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every evaluation. The first one of each side is not measured, because it sets things up."""
    by_name = {side.name: side for side in sides}
    seconds: dict[str, list[float]] = {name: [] for name in by_name}
    options = {"limit": documents, "log_samples": False, "bootstrap_iters": 0}
    for repeat in range(repeats + 1):
        for name in in_turn(by_name, repeat):
            started = time.perf_counter()
            evaluator.evaluate(by_name[name].model, {task.name: task.harness}, **options)
            seconds[name].append(time.perf_counter() - started)
    return {name: taken[1:] for name, taken in seconds.items()}


if __name__ == "__main__":
    main()
