from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

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
