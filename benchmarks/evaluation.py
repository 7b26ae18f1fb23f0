#!/usr/bin/env python
"""Documents evaluated a second, beside lm-evaluation-harness's own ``hf`` model: without pauses, and what pauses cost.

    python benchmarks/evaluation.py --data tasks --work work

One task of each kind (decoded, scored choices, scored last word) on the first documents of real samples, by the same
random model in batches of the same size, in turn. ``--data`` has the folders webqs, piqa and lambada_openai, with
JSON-lines files in the hub's schema. Beside the time stands what the pauses add to the tokens that are read.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from arguments import available_cores, new_parser, require
from cpu_time import Spread
from generation import random_model
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from sections import Section, load_now

from pause_megatron.config.tokenizer import TokenizerConfig
from pause_megatron.downstream.harness_model import PauseLM
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import Task, load_task
from pause_megatron.experiments.demo_corpus import write_pydoc_corpus
from pause_megatron.tokenizer import PauseTokenizer
from pause_megatron.tokenizer.huggingface import to_huggingface
from pause_megatron.tokenizer.make_tokenizer import train_tokenizer

TASKS = {"web_questions": "webqs", "piqa": "piqa", "lambada": "lambada_openai"}
PAUSES = (0, 10, 50)
STOCK = "hf"
CONTEXT_LENGTH = 1024
_LAYERS = 6
_QUIET = {"bootstrap_iters": 0}
"""No standard errors, which are drawn after the model has answered."""


@dataclass(frozen=True)
class Side:
    """One harness model."""

    name: str
    num_pauses: int
    model: HFLM


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of task folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--documents", type=int, default=64, help="documents of each task (default 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts in a batch (default 16)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each side (default 5)")
    arguments = parser.parse_args()
    for folder in TASKS.values():
        require((arguments.data / folder).is_dir(), f"--data {arguments.data}: no folder {folder} there")
    require(arguments.repeats >= 1, f"--repeats {arguments.repeats}: must be at least 1")
    torch.set_num_threads(available_cores())
    load = load_now()
    folder = _model_folder(arguments.work)
    sides = _sides(folder, arguments.batch_size)
    found: dict[str, dict[str, list[float]]] = {}
    rows: list[tuple[str, ...]] = []
    for name, data in TASKS.items():
        task = load_task(name, arguments.data / data)
        found[name] = _measure(task, sides, arguments.documents, arguments.repeats)
        prompts = _prompt_tokens(folder, task, arguments.documents)
        rows += [_row(name, side, found[name], prompts, arguments.documents) for side in sides]
    section = Section(
        title="Evaluation",
        text=f"fp32, a Llama of {folder.model.num_parameters() / 1e6:.0f}M parameters, {available_cores()} threads, "
        f"{arguments.documents} documents of each task in batches of {arguments.batch_size}; {arguments.repeats} "
        "repeats, in turn. Median (lowest-highest). Tokens: of the mean prompt with its pauses, beside without.",
        header=("task", "side", "documents/s", "hf's time / ours", "tokens"),
        rows=tuple(rows),
        load=(load, load_now()),
        measurements=found,
    )
    section.save(arguments.work, "9-evaluation")


def _model_folder(work: Path) -> ModelFolder:
    tokenizer_folder = work / "evaluation" / "tokenizer"
    if not tokenizer_folder.exists():
        write_pydoc_corpus(work / "evaluation" / "corpus", train_shards=1)
        texts = (str(work / "evaluation" / "corpus" / "*train*"),)
        train_tokenizer(TokenizerConfig(input=texts, output=tokenizer_folder, vocab_size=2048))
    tokenizer = PauseTokenizer.load(tokenizer_folder)
    model = random_model("llama", _LAYERS)
    model.generation_config.suppress_tokens = [tokenizer.pause_id]
    return ModelFolder(
        path=tokenizer_folder,
        model=model,
        tokenizer=to_huggingface(tokenizer),
        pause_id=tokenizer.pause_id,
        eod_id=tokenizer.eod_id,
        context_length=CONTEXT_LENGTH,
        pretraining=None,
        finetuning=None,
    )


def _sides(folder: ModelFolder, batch_size: int) -> list[Side]:
    stock = HFLM(
        folder.model, backend="causal", tokenizer=folder.tokenizer, batch_size=batch_size, max_length=CONTEXT_LENGTH
    )
    ours = [
        Side(f"ours, M = {number}", number, PauseLM(folder, Pausing(num_pauses=number), batch_size))
        for number in PAUSES
    ]
    return [Side(STOCK, 0, stock), *ours]


def _measure(task: Task, sides: list[Side], documents: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of every evaluation."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for repeat in range(repeats + 1):
        for side in sides[:: -1 if repeat % 2 else 1]:
            started = time.perf_counter()
            evaluator.evaluate(side.model, {task.name: task.harness}, limit=documents, log_samples=False, **_QUIET)
            if repeat:  # the first is for what is made once
                seconds[side.name].append(time.perf_counter() - started)
        print(f"{task.name} {repeat} of {repeats}", file=sys.stderr, flush=True)
    return seconds


def _prompt_tokens(folder: ModelFolder, task: Task, documents: int) -> float:
    texts = [task.harness.doc_to_text(document) for document in list(task.harness.eval_docs)[:documents]]
    return sum(len(folder.tokenizer.encode(text)) for text in texts) / len(texts)


def _row(name: str, side: Side, taken: dict[str, list[float]], prompt: float, documents: int) -> tuple[str, ...]:
    mine, theirs = taken[side.name], taken[STOCK]
    rate = Spread.of([documents / seconds for seconds in mine])
    ratio = ""
    if side.name != STOCK:
        found = Spread.of([b / a for a, b in zip(mine, theirs, strict=True)])
        ratio = f"**{found.median:.2f}** ({found.low:.2f}-{found.high:.2f})"
    return name, side.name, rate.show(digits=1), ratio, f"{prompt + side.num_pauses:.0f} / {prompt:.0f}"


if __name__ == "__main__":
    main()
