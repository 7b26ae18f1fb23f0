#!/usr/bin/env python
"""Time to the first token and decoding rate after pauses, compared with stock ``generate`` of transformers.

    python benchmarks/generation.py --work work

Random models of about twenty million parameters continue random prompts greedily after 0, 10 and 50 pauses: with this
project's generation, with a causal and with a bidirectional prefix, and with stock ``generate`` on the same prompts
with the ids of the pauses appended. The candidates run in turn in one process, on a GPU if there is one. The program
fails if a causal prefix does not give stock's tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import Spread, available_cores, in_turn, load_now, new_parser, require, require_at_least, save_table
from transformers import AutoModelForCausalLM

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import hf_generation_config, hf_model_config
from pause_megatron.downstream.generation import generate_after
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.pauses.prompts import TokenIds, pause_prefix

OURS, OURS_BIDIRECTIONAL, STOCK = "ours, causal", "ours, bidirectional", "transformers"
PAUSE_ID, EOD_ID, FIRST_TEXT_ID, VOCAB_SIZE = 2, 1, 3, 16_384
CONTEXT_LENGTH = 1024
_SEED = 1234

Generate = Callable[[list[TokenIds], int], list[list[int]]]
"""Continues prompts, which contain no pauses yet, by a number of new tokens."""
Seconds = dict[str, list[float]]
"""Seconds of every repeat: ``first`` and ``complete`` in wall time, ``cpu`` in processor time."""


def main() -> None:
    """Measure and print the table."""
    parser = new_parser(__doc__, repeats=15)
    parser.add_argument("--pauses", nargs="+", type=int, default=[0, 10, 50], help="pauses (default: 0 10 50)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="tokens of the longest prompt (default: 128)")
    parser.add_argument(
        "--batch-size", type=int, default=4, help="prompts in a batch, of different lengths (default: 4)"
    )
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate per prompt (default: 64)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the models (default: 6)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads (default: one per core)")
    arguments = parser.parse_args()
    require(min(arguments.pauses) >= 0, f"--pauses {' '.join(map(str, arguments.pauses))}: must be at least 0")
    require_at_least(4, arguments, "prompt_tokens")
    require_at_least(2, arguments, "new_tokens")
    require_at_least(1, arguments, "batch_size", "layers", "threads", "repeats")
    needed = arguments.prompt_tokens + max(arguments.pauses) + arguments.new_tokens
    message = f"--prompt-tokens, --pauses and --new-tokens: {needed} positions, but the context has {CONTEXT_LENGTH}"
    require(needed <= CONTEXT_LENGTH, message)
    torch.set_num_threads(arguments.threads)
    load, found, rows = load_now(), {}, []
    prompts = random_prompts(arguments.batch_size, arguments.prompt_tokens)
    for architecture in ("gpt2", "llama"):
        folder = random_folder(architecture, arguments.layers, PAUSE_ID, EOD_ID)
        for num_pauses in arguments.pauses:
            sides = {side: generator(side, folder, num_pauses) for side in (OURS, OURS_BIDIRECTIONAL, STOCK)}
            taken = measure(sides, prompts, arguments.new_tokens, arguments.repeats)
            found[f"{architecture}, {num_pauses}"] = taken
            label = f"{architecture} ({folder.model.num_parameters() / 1e6:.0f}M)"
            tokens = arguments.batch_size * (arguments.new_tokens - 1)
            rows += [[label, str(num_pauses), *_figures(side, taken, tokens)] for side in sides]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {arguments.threads} threads"
    save_table(
        arguments.work,
        "generation",
        title="Generation after pauses",
        text=f"fp32, {device}; {arguments.batch_size} prompts of {arguments.prompt_tokens // 4} to "
        f"{arguments.prompt_tokens} random tokens in a batch, {arguments.new_tokens} new tokens each, greedy; "
        f"{arguments.repeats} repeats, in turn. Median (lowest-highest). First token: wall time of the prefill, which "
        "includes the pauses. Decoding: tokens of all prompts per second after the first. The last three columns are "
        "our time divided by that of stock `generate` on the same ids, repeat by repeat: first token, decoding, and "
        "processor time of the complete generation.",
        header=["model", "pauses", "side", "first token, ms", "decoding, tokens/s", "first", "decoding", "processor"],
        rows=rows,
        load=load,
        measurements=found,
    )


def random_folder(architecture: Any, num_layers: int, pause_id: int, eod_id: int, tokenizer: Any = None) -> ModelFolder:
    """A random model, with about twenty million parameters for six layers, that never emits ``<pause>``."""
    torch.manual_seed(_SEED)
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "max_position_embeddings": CONTEXT_LENGTH}
    config = ModelConfig(architecture=architecture, num_layers=num_layers, **sizes)
    model = AutoModelForCausalLM.from_config(
        hf_model_config(config, vocab_size=VOCAB_SIZE, eod_id=eod_id), dtype=torch.float32
    )
    model.generation_config = hf_generation_config(pause_ids=[pause_id], eod_id=eod_id)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    ids = {"pause_id": pause_id, "eod_id": eod_id, "stop_ids": (eod_id,), "context_length": CONTEXT_LENGTH}
    return ModelFolder(path=Path(), model=model, tokenizer=tokenizer, **ids, pretraining=None, finetuning=None)


def random_prompts(batch_size: int, longest: int) -> list[TokenIds]:
    """The same random prompts on every call, with lengths between a quarter of ``longest`` and ``longest``."""
    random = torch.Generator().manual_seed(_SEED)
    lengths = torch.linspace(longest, longest // 4, batch_size).int().tolist()
    return [torch.randint(FIRST_TEXT_ID, VOCAB_SIZE, (length,), generator=random).numpy() for length in lengths]


def generator(side: str, folder: ModelFolder, num_pauses: int) -> Generate:
    """A function with all steps of ``side`` that depend on the prompts."""

    def ours(prompts: list[TokenIds], new_tokens: int) -> list[list[int]]:
        room = CONTEXT_LENGTH - new_tokens
        prefixes = [
            pause_prefix(prompt, num_pauses, pause_ids=[PAUSE_ID], eod_id=EOD_ID, room=room) for prompt in prompts
        ]
        return generate_after(folder, prefixes, bidirectional=side == OURS_BIDIRECTIONAL, **_settings(new_tokens))

    def stock(prompts: list[TokenIds], new_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))  # left padding: [batch, longest + pauses]
        rows = [[EOD_ID] * (longest - len(prompt)) + prompt.tolist() + [PAUSE_ID] * num_pauses for prompt in prompts]
        masks = [[0] * (longest - len(prompt)) + [1] * (len(prompt) + num_pauses) for prompt in prompts]
        input_ids, attention_mask = (torch.tensor(values, device=folder.model.device) for values in (rows, masks))
        output = folder.model.generate(input_ids, attention_mask=attention_mask, **_settings(new_tokens))
        continuations: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
        return continuations

    return stock if side == STOCK else ours


def _settings(new_tokens: int) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}


def measure(sides: dict[str, Generate], prompts: list[TokenIds], new_tokens: int, repeats: int) -> dict[str, Seconds]:
    """The times of every side, after one generation that is not measured."""
    generated = {side: generate(prompts, new_tokens) for side, generate in sides.items()}
    assert generated[OURS] == generated[STOCK], "a causal prefix must give the tokens of stock generate"
    taken: dict[str, Seconds] = {side: {"first": [], "complete": [], "cpu": []} for side in sides}
    for repeat in range(repeats):
        for side in in_turn(sides, repeat):
            for part, tokens in (("first", 1), ("complete", new_tokens)):
                started, cpu_started = _now(), time.process_time()
                sides[side](prompts, tokens)
                taken[side][part].append(_now() - started)
            taken[side]["cpu"].append(time.process_time() - cpu_started)
    return taken


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _figures(side: str, taken: dict[str, Seconds], tokens: int) -> list[str]:
    for one in taken.values():
        one["decoding"] = [complete - first for first, complete in zip(one["first"], one["complete"], strict=True)]
    mine, theirs = taken[side], taken[STOCK]
    parts = ("first", "decoding", "cpu")
    ratios = [Spread.ratio(mine[part], theirs[part]).show(bold=True) if side != STOCK else "" for part in parts]
    rates = Spread.of(tokens / seconds for seconds in mine["decoding"])
    return [side, Spread.of(mine["first"]).show(1e-3, 1), rates.show(digits=0), *ratios]


if __name__ == "__main__":
    main()
