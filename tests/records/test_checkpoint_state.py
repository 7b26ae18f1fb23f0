"""State of a checkpoint: keys as on disk, and errors that name the checkpoint and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from pause_megatron.errors import UserError
from pause_megatron.records.checkpoint_state import CheckpointState
from tests.records.examples import example

KEYS_OF_A_CONVERTED_MODEL = {
    "iteration", "consumed_samples", "real_tokens", "pause_tokens", "layout", "vocab_size", "tokenizer_sha256",
    "dataset", "config", "converted_from", "versions",
}  # fmt: skip
KEYS_OF_A_RUN = (KEYS_OF_A_CONVERTED_MODEL - {"converted_from"}) | {
    "directory", "validated_iteration", "bad_batches", "devices",
}  # fmt: skip


def test_state_reads_back_as_it_was_written() -> None:
    state = example(CheckpointState)
    assert CheckpointState.read(state.to_plain(), Path("run")) == state
    assert set(state.to_plain()) == KEYS_OF_A_RUN | KEYS_OF_A_CONVERTED_MODEL | {"generation", "pretraining"}


@pytest.mark.parametrize("keys", [KEYS_OF_A_RUN, KEYS_OF_A_CONVERTED_MODEL], ids=["run", "converted"])
def test_optional_keys_are_left_out(keys: set[str]) -> None:
    plain = {key: value for key, value in example(CheckpointState).to_plain().items() if key in keys}
    assert CheckpointState.read(plain, Path("run")).to_plain() == plain


def test_state_of_an_older_version_without_devices_is_read() -> None:
    plain = example(CheckpointState).to_plain()
    del plain["devices"]
    assert CheckpointState.read(plain, Path("run")).devices is None


@pytest.mark.parametrize("key", sorted(KEYS_OF_A_RUN & KEYS_OF_A_CONVERTED_MODEL))
def test_missing_key_is_reported_with_the_checkpoint(key: str) -> None:
    plain = example(CheckpointState).to_plain()
    del plain[key]
    with pytest.raises(UserError, match=f"^run/iter_0000003 .state.: missing key '{key}'"):
        CheckpointState.read(plain, Path("run/iter_0000003"))
