import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.pauses import sampling
from pause_megatron.preprocess.shard import _sampler_for
from pause_megatron.preprocess.shard_writer import count_runs


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), max_size=8))
def test_runs_of_pauses_end_with_their_sequence(sequences):
    expected = []
    for sequence in sequences:
        runs = "".join("p" if is_pause else " " for is_pause in sequence).split()
        expected += [len(run) for run in runs]
    flat = np.array([is_pause for sequence in sequences for is_pause in sequence], dtype=bool)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int32)
    assert count_runs(flat, lengths) == Counter(expected)


@pytest.mark.parametrize(
    ("strategy", "encoder", "size", "has_numba", "is_compiled"),
    [
        ("sequence", "gigatoken", 1 << 30, False, True),
        ("document", "gigatoken", 1 << 30, False, True),
        ("none", "gigatoken", 1 << 30, False, False),
        ("every", "gigatoken", 1 << 30, True, False),
        ("sequence", "gigatoken", 1 << 20, False, False),
        ("sequence", "gigatoken", 1 << 20, True, True),
        ("sequence", "sentencepiece", 1 << 30, False, False),
    ],
)
def test_random_pauses_are_compiled_where_that_saves_time(strategy, encoder, size, has_numba, is_compiled, monkeypatch):
    numba = pytest.importorskip("numba", reason="numba is not installed; compiled pauses were not checked")
    from pause_megatron.pauses import sampling_loops

    if has_numba:
        monkeypatch.setitem(sys.modules, "numba", numba)
    else:
        monkeypatch.delitem(sys.modules, "numba")
    outputs = [SimpleNamespace(settings=SimpleNamespace(strategy=strategy))]
    job = SimpleNamespace(source=SimpleNamespace(size_bytes=size), outputs=outputs)
    found = _sampler_for(job, SimpleNamespace(encoder_name=encoder))
    assert found is (sampling_loops if is_compiled else sampling)
