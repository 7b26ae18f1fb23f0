import numpy as np

from pause_megatron.pauses.counter_hash import draws_below, sequence_keys


def test_hash_is_splitmix64():
    # The first outputs of the reference implementation from state 0; a draw is the upper half of one.
    reference = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    draws = draws_below(2**32 - 1, np.zeros(1, dtype=np.uint64), np.arange(3))
    assert draws.tolist() == [((word >> 32) * (2**32 - 1)) >> 32 for word in reference]


def test_keys_depend_only_on_seed_shard_and_sequence():
    sequences = np.arange(1000)
    keys = {(seed, shard): sequence_keys(seed, shard, sequences) for seed in (0, 1, 2**63) for shard in (0, 1)}
    assert len(np.unique(np.concatenate(list(keys.values())))) == 6 * 1000
    np.testing.assert_array_equal(sequence_keys(1, 1, np.array([7, 3])), keys[1, 1][[7, 3]])


def test_draws_are_uniform_and_bounded():
    keys = sequence_keys(5, 0, np.arange(2000))
    counts = np.bincount(draws_below(100, keys[:, None], np.arange(50)[None, :]).ravel(), minlength=100)
    assert len(counts) == 100
    chi_square = np.sum((counts - 1000) ** 2 / 1000)
    assert 60 < chi_square < 150  # 99 degrees of freedom: mean 99, standard deviation 14
