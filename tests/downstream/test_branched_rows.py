"""Answers of a prefix in few rows."""

from pause_megatron.downstream.branched_rows import pack


def test_rows_hold_branches_of_one_prefix_up_to_the_capacity():
    prefixes, tokens = [0, 1, 0, 1, 0, 2], [3, 4, 3, 2, 3, 9]
    assert pack(range(6), prefixes, tokens, capacity=6) == [[0, 2], [4], [1, 3], [5]]
    assert pack(range(6), prefixes, tokens, capacity=100) == [[0, 2, 4], [1, 3], [5]]
    assert pack([2, 4, 5], prefixes, tokens, capacity=100) == [[2, 4], [5]]


def test_a_branch_beyond_the_capacity_has_a_row():
    assert pack(range(3), [0, 0, 0], [5, 1, 7], capacity=2) == [[0], [1], [2]]
    assert pack(range(2), [0, 0], [1, 1], capacity=-3) == [[0], [1]]


def test_the_rows_of_a_prefix_have_about_the_same_number_of_tokens():
    assert pack(range(10), [0] * 10, [1] * 10, capacity=8) == [list(range(5)), list(range(5, 10))]
