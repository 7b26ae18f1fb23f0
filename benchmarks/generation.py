#!/usr/bin/env python
"""What pausing costs at inference: time to the first token, and tokens a second from there on.

    python benchmarks/generation.py --work work

Random models of about twenty million parameters continue random prompts greedily, after 0, 10 and 50 pauses: through
this project's generation with a causal prefix and with a bidirectional one, and through stock ``generate``, on the same
prompts with the ids of the pauses appended. The sides take turns in one process, every other round in reverse order.
A causal prefix gives stock's tokens, or the program ends. On a GPU where there is one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from arguments import available_cores, new_parser, require
from cpu_time import Spread
from sections import Section, load_now
from transformers import AutoModelForCausalLM, PreTrainedModel

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.hf_config import hf_generation_config, hf_model_config
from pause_megatron.downstream.batching import line_up
from pause_megatron.downstream.generation import generation_arguments
from pause_megatron.pauses.prompts import TokenIds, pause_prefix

OURS, OURS_BIDIRECTIONAL, STOCK = "ours, causal", "ours, bidirectional", "transformers"
SIDES = (OURS, OURS_BIDIRECTIONAL, STOCK)
ARCHITECTURES = ("gpt2", "llama")
PAUSE_ID, EOD_ID, FIRST_TEXT_ID, VOCAB_SIZE = 2, 1, 3, 16_384
CONTEXT_LENGTH = 1024
_SEED = 1234

Generate = Callable[[list[TokenIds], int], list[list[int]]]
"""Continues prompts that have no pauses yet by a number of new tokens."""


def main() -> None:
    """Measure, print the table and keep it in the work folder."""
    parser = new_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for results")
    parser.add_argument("--pauses", nargs="+", type=int, default=[0, 10, 50], help="pauses (default 0 10 50)")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="tokens of the longest prompt (default 128)")
    parser.add_argument("--batch-size", type=int, default=4, help="prompts in a batch, of unequal length (default 4)")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate for each (default 64)")
    parser.add_argument("--layers", type=int, default=6, help="layers of the models (default 6)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads (default: one for each core)")
    parser.add_argument("--repeats", type=int, default=15, help="measurements of each side (default 15)")
    arguments = parser.parse_args()
    require(min(arguments.pauses) >= 0, f"--pauses {' '.join(map(str, arguments.pauses))}: must be at least 0")
    for name, least in (
        ("prompt_tokens", 4),
        ("batch_size", 1),
        ("new_tokens", 2),
        ("layers", 1),
        ("threads", 1),
        ("repeats", 1),
    ):
        value = getattr(arguments, name)
        require(value >= least, f"--{name.replace('_', '-')} {value}: must be at least {least}")
    needed = arguments.prompt_tokens + max(arguments.pauses) + arguments.new_tokens
    require(
        needed <= CONTEXT_LENGTH, f"--prompt-tokens, --pauses and --new-tokens: {needed} positions of {CONTEXT_LENGTH}"
    )
    torch.set_num_threads(arguments.threads)
    load = load_now()
    prompts = random_prompts(arguments.batch_size, arguments.prompt_tokens)
    found, rows = {}, []
    for architecture in ARCHITECTURES:
        model = random_model(architecture, arguments.layers)
        for num_pauses in arguments.pauses:
            print(f"measuring {architecture} with {num_pauses} pauses", file=sys.stderr, flush=True)
            sides = {side: generator(side, model, num_pauses) for side in SIDES}
            taken = measure(sides, prompts, arguments.new_tokens, arguments.repeats)
            found[f"{architecture}, {num_pauses}"] = taken
            label = f"{architecture} ({model.num_parameters() / 1e6:.0f}M)"
            rows += [(label, str(num_pauses), *_figures(side, taken, arguments)) for side in SIDES]
    section = Section(
        title="Generation after pauses",
        text=f"fp32, {_device()}; {arguments.batch_size} prompts of {arguments.prompt_tokens // 4} to "
        f"{arguments.prompt_tokens} random tokens in a batch, {arguments.new_tokens} new tokens each, greedily; "
        f"{arguments.repeats} repeats, in turn. Median (lowest-highest). First token: prefill, pauses included, in "
        "milliseconds of wall time. Decoding: tokens of all prompts a second, after the first. Time of ours divided by "
        "that of stock `generate` on the same ids, repeat by repeat: of the first token, of decoding, and the "
        "processor time of the whole.",
        header=("model", "pauses", "side", "first token, ms", "decoding, tokens/s", "first", "decoding", "processor"),
        rows=tuple(rows),
        load=(load, load_now()),
        measurements=found,
    )
    section.save(arguments.work, "9-generation")


def random_model(architecture: str, num_layers: int) -> PreTrainedModel:
    """A random model, of about twenty million parameters at six layers, that never emits ``<pause>``."""
    torch.manual_seed(_SEED)
    config = ModelConfig(
        architecture=architecture,
        num_layers=num_layers,
        hidden_size=384,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT_LENGTH,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        hf_model_config(config, vocab_size=VOCAB_SIZE, eod_id=EOD_ID), dtype=torch.float32
    )
    model.generation_config = hf_generation_config(pause_id=PAUSE_ID, eod_id=EOD_ID)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def random_prompts(batch_size: int, longest: int) -> list[TokenIds]:
    """Prompts of random tokens, evenly between a quarter of ``longest`` and ``longest``; the same whenever asked."""
    generator = torch.Generator().manual_seed(_SEED)
    lengths = torch.linspace(longest, longest // 4, batch_size).int().tolist()
    return [torch.randint(FIRST_TEXT_ID, VOCAB_SIZE, (length,), generator=generator).numpy() for length in lengths]


def generator(side: str, model: PreTrainedModel, num_pauses: int) -> Generate:
    """What ``side`` does from prompts to continuations; every step that depends on the prompts is in it."""

    def ours(prompts: list[TokenIds], new_tokens: int) -> list[list[int]]:
        room = CONTEXT_LENGTH - new_tokens
        prefixes = [pause_prefix(prompt, num_pauses, pause_id=PAUSE_ID, eod_id=EOD_ID, room=room) for prompt in prompts]
        batch = line_up(prefixes, [[]] * len(prefixes), EOD_ID).to(model.device)
        settings = _settings(new_tokens)
        arguments = generation_arguments(
            model, batch, PAUSE_ID, bidirectional=side == OURS_BIDIRECTIONAL, settings=settings
        )
        output = model.generate(batch.input_ids, **{**settings, **arguments})
        return output[:, batch.border :].tolist()

    def stock(prompts: list[TokenIds], new_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        rows = [[EOD_ID] * (longest - len(prompt)) + prompt.tolist() + [PAUSE_ID] * num_pauses for prompt in prompts]
        masks = [[0] * (longest - len(prompt)) + [1] * (len(prompt) + num_pauses) for prompt in prompts]
        input_ids, attention_mask = (torch.tensor(values, device=model.device) for values in (rows, masks))
        output = model.generate(input_ids, attention_mask=attention_mask, **_settings(new_tokens))
        return output[:, input_ids.shape[1] :].tolist()

    return stock if side == STOCK else ours


def _settings(new_tokens: int) -> dict[str, Any]:
    return {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}


def measure(
    sides: dict[str, Generate], prompts: list[TokenIds], new_tokens: int, repeats: int
) -> dict[str, dict[str, list[float]]]:
    """Seconds of wall time to the first token and to the last, and of processor time, of every repeat of every side."""
    said = {side: generate(prompts, new_tokens) for side, generate in sides.items()}
    assert said[OURS] == said[STOCK], "a causal prefix is what stock generate reads"
    taken: dict[str, dict[str, list[float]]] = {side: {"first": [], "whole": [], "cpu": []} for side in sides}
    for repeat in range(repeats):
        for side in list(sides)[:: -1 if repeat % 2 else 1]:
            for part, tokens in (("first", 1), ("whole", new_tokens)):
                started, cpu_started = _now(), time.process_time()
                sides[side](prompts, tokens)
                taken[side][part].append(_now() - started)
            taken[side]["cpu"].append(time.process_time() - cpu_started)
    return taken


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _figures(side: str, taken: dict[str, dict[str, list[float]]], arguments: Any) -> tuple[str, ...]:
    tokens = arguments.batch_size * (arguments.new_tokens - 1)
    mine, theirs = ({**taken[name], "decoding": _decoding(taken[name])} for name in (side, STOCK))
    ratios = [""] * 3
    if side != STOCK:
        spreads = [
            Spread.of([a / b for a, b in zip(mine[part], theirs[part], strict=True)])
            for part in ("first", "decoding", "cpu")
        ]
        ratios = [f"**{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})" for ratio in spreads]
    rates = Spread.of([tokens / seconds for seconds in mine["decoding"]])
    return side, Spread.of(mine["first"]).show(1e-3, 1), rates.show(digits=0), *ratios


def _decoding(taken: dict[str, list[float]]) -> list[float]:
    """Seconds from the first token to the last."""
    return [whole - first for first, whole in zip(taken["first"], taken["whole"], strict=True)]


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} of {available_cores()} cores"


if __name__ == "__main__":
    main()
