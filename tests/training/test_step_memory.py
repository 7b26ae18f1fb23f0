"""On the CPU a step computes in the memory that the step before has freed."""

from __future__ import annotations

import resource

import torch

from pause_megatron.config.parallel import resolve_layout
from pause_megatron.engine.build import build_engine
from pause_megatron.model.gpt import build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.step import Stepper
from tests.distributed import run_distributed
from tests.training.runs import GPT2, OPTIMIZER, TRAINING, VOCAB_SIZE, Run, batch_of

SEQUENCES, SEQ_LENGTH = 128, 64


def new_pages_of_steps() -> list[int]:
    """Pages that the system has cleared for each of six steps."""
    run = Run()
    sizes = {"world_size": 1, "vocab_size": VOCAB_SIZE}
    layout = resolve_layout(run.parallel, model=run.model, deepspeed=run.deepspeed_file, **sizes)
    initialize_process_groups(detect_launch(), layout, seed=run.seed)
    model = build_local_model(run.model, layout, vocab_size=VOCAB_SIZE, seed=run.seed)
    engine = build_engine(model, deepspeed_file=run.deepspeed_file, optimizer=OPTIMIZER, training=TRAINING)
    stepper = Stepper(model, engine, layout, device())
    batch = batch_of(torch.full((SEQUENCES, SEQ_LENGTH + 1), 3), micro_batch_size=SEQUENCES)
    found = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        stepper.accumulate(batch)
        stepper.update(1e-3)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    destroy_process_groups()
    return found


def test_a_step_computes_in_the_memory_of_the_step_before() -> None:
    [pages] = run_distributed(new_pages_of_steps, 1)
    residual_streams = GPT2.num_layers * SEQUENCES * SEQ_LENGTH * GPT2.hidden_size * 4 // resource.getpagesize()
    assert pages[0] > residual_streams
    assert min(pages[2:]) < residual_streams, pages  # a step that returns its memory clears four times these
