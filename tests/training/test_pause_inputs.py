"""What the model reads in a training step, captured in its forward pass and compared with rows written by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from megatron.core import parallel_state

from pause_megatron.config.model import ModelConfig
from pause_megatron.conversion.one_layer import ONE_PROCESS
from pause_megatron.data.batches import Batch
from pause_megatron.engine.build import build_engine
from pause_megatron.model.gpt import PauseGPT, build_local_model
from pause_megatron.parallel.groups import destroy_process_groups, device, initialize_process_groups
from pause_megatron.parallel.launcher import detect_launch
from pause_megatron.training.step import Stepper
from tests.distributed import run_distributed
from tests.training.runs import GPT2, LLAMA, OPTIMIZER, TRAINING, VOCAB_SIZE, Run

P, Q = 2, 3
"""Two distinct pauses."""
SAMPLES = [[10, P, Q, 11, 12, P, 13, Q, Q], [P, Q, 20, 21, P, 22, 23, 24, P]]
LABELS = [[P, Q, 11, 12, P, 13, Q, Q], [Q, 20, 21, P, 22, 23, 24, P]]
LEARNED = [[0, 0, 1, 1, 0, 1, 0, 0], [0, 1, 1, 0, 1, 1, 1, 0]]
INPUTS = {
    "pause": [[10, P, Q, 11, 12, P, 13, Q], [P, Q, 20, 21, P, 22, 23, 24]],
    "repeat": [[10, 10, 10, 11, 12, 12, 13, 13], [P, P, 20, 21, 21, 22, 23, 24]],
}
POSITIONS = {"shift": [list(range(8))] * 2, "shared": [[0, 0, 0, 1, 2, 2, 3, 3], [0, 0, 0, 1, 1, 2, 3, 4]]}
"""A pause at the start of a sequence has no real token before it: it stays a pause, with the index 0."""


def captured(model: ModelConfig, inputs: str) -> dict[str, Any]:
    """Arguments of the forward pass of one step, its rotary angles, and its loss with the losses of all positions."""
    run, found = Run(model=model, zero_stage=0), {}
    forward = PauseGPT.forward

    def recording(
        self: PauseGPT, input_ids: torch.Tensor, position_ids: torch.Tensor, *others: Any, **named: Any
    ) -> Any:
        found.update(tokens=input_ids.tolist(), positions=position_ids.tolist(), labels=named["labels"].tolist())
        found["mask"] = others
        output = forward(self, input_ids, position_ids, *others, **named)
        if model.architecture == "llama":
            found["angles"] = self.rotary_pos_emb(input_ids.shape[1])[..., 0, :].tolist()
        found["losses"] = output.tolist()
        return output

    PauseGPT.forward = recording
    try:
        initialize_process_groups(detect_launch(), ONE_PROCESS, seed=run.seed)
        local = build_local_model(model, ONE_PROCESS, vocab_size=VOCAB_SIZE, seed=run.seed)
        engine = build_engine(local, deepspeed_file=run.deepspeed_file, optimizer=OPTIMIZER, training=TRAINING)
        settings = {"repeats_tokens": inputs == "repeat", "shares_positions": model.shares_positions}
        batch = Batch.of(torch.tensor([SAMPLES]), range(P, Q + 1), **settings)
        found["loss"] = Stepper(local, engine, ONE_PROCESS, device()).accumulate(batch).losses.mean
        parallel_state.destroy_model_parallel()
    finally:
        PauseGPT.forward = forward
        destroy_process_groups()
    return found


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_a_step_reads_and_learns_what_is_written_by_hand(model: ModelConfig, inputs: str, positions: str) -> None:
    [found] = run_distributed(captured, 1, replace(model, pause_positions=positions), inputs)
    assert found["tokens"] == INPUTS[inputs]
    assert found["positions"] == POSITIONS[positions]
    assert found["labels"] == LABELS
    assert found["mask"] == (None,)  # causal, without a mask
    pairs = zip(chain(*found["losses"]), chain(*LEARNED), strict=True)
    learned = [loss for loss, counts in pairs if counts]
    assert found["loss"] == pytest.approx(sum(learned) / len(learned), abs=1e-6)
    if model is LLAMA:
        frequencies = [LLAMA.rotary_base ** (-2 * place / LLAMA.head_dim) for place in range(LLAMA.head_dim // 2)]
        rows = POSITIONS[positions] if positions == "shared" else POSITIONS[positions][:1]  # one for all sequences
        for row, indices in enumerate(rows):
            for token, index in enumerate(indices):
                expected = [index * frequency for frequency in frequencies] * 2
                assert found["angles"][token][row] == pytest.approx(expected, rel=1e-5)
