import numpy as np
import pytest
from rich.cells import cell_len

from pause_megatron.errors import UserError
from pause_megatron.preprocess.dataset_manifest import load_dataset_manifest
from pause_megatron.preprocess.inspection.sequence_display import (
    FURTHER_BYTE,
    StoredSample,
    TokenTexts,
    choose_indices,
    read_sample,
    sample_lines,
)
from pause_megatron.preprocess.shard_spans import spans_of
from tests.preprocess.conftest import rows_of
from tests.preprocess.finished_datasets import EOD, KINDS, PAUSE


@pytest.mark.parametrize("name", [*KINDS, "none"])
def test_samples_are_the_stored_sequences_with_their_mask(datasets, name):
    manifest = load_dataset_manifest(datasets / name)
    parts, index = spans_of(datasets / name, manifest), 0
    for shard in manifest.shards:
        rows = rows_of(datasets / name, shard, manifest.seq_length)
        for place in (0, 1, len(rows) - 1):
            sample = read_sample(parts, manifest, index + place)
            np.testing.assert_array_equal(sample.tokens, rows[place])
            np.testing.assert_array_equal(sample.has_loss[:-1], rows[place][1:] != PAUSE)
            if manifest.strategy == "document":
                assert sample.has_loss[-1]
            elif manifest.trimmed == "drop" or place == len(rows) - 1:
                assert not sample.has_loss[-1]
            else:
                assert sample.has_loss[-1] == (rows[place + 1][0] != PAUSE)
        index += len(rows)


def test_indices_wanted_or_evenly_spread():
    assert choose_indices((7, 3), 2, 8) == (7, 3)
    assert choose_indices((), 3, 9) == [0, 3, 6]
    assert choose_indices((), 3, 2) == [0, 1]
    assert choose_indices((), 0, 2) == []
    with pytest.raises(UserError, match="--indices 8: the dataset has 8 sequences; give 0 to 7"):
        choose_indices((8,), 3, 8)


def shown(tokenizer, tokens, has_loss, *, most=0, width=60):
    sample = StoredSample(0, None, 0, np.array(tokens), np.array(has_loss, dtype=bool))
    return [str(line) for line in sample_lines(sample, TokenTexts(tokenizer), most, width)]


def test_pieces_join_to_the_text(tokenizer):
    text = "Some  words, <pause> and </s> among them:\n\tcafé, naïve, 北京 \x1b[31m."
    pieces = TokenTexts(tokenizer).texts(tokenizer.encode(text))
    joined = "".join(piece for piece in pieces if piece != FURTHER_BYTE)
    assert joined == text.replace("\n", "⏎").replace("\t", "⇥").replace("\x1b", "\\x1b")
    assert "<pause>" not in pieces
    assert pieces.count(FURTHER_BYTE) == 6  # 2 of three bytes, 2 of two, none of which this tokenizer has a piece for


def test_broken_characters_are_shown_as_such(tokenizer):
    first, second = tokenizer.encode("é")[-2:]
    word = tokenizer.encode("e")[0]
    broken = "\ufffd"
    found = TokenTexts(tokenizer).texts([first, word, first, second, second, first])
    assert found == [broken, "e", "é", FURTHER_BYTE, broken, broken]


def test_marks_are_below_the_positions_without_loss(tokenizer):
    word = tokenizer.encode("e")[0]
    lines = shown(tokenizer, [word, PAUSE, PAUSE, word, EOD, word], [0, 0, 1, 1, 0, 1])
    assert lines == [" 0 │e│<pause>│<pause>│e│<eod>│e│", "    ^ ^^^^^^^           ^^^^^"]


def test_long_sequences_are_wrapped_and_cut(tokenizer):
    tokens = [*tokenizer.encode("All of these words are to be wrapped. " * 20), PAUSE] * 2
    lines = shown(tokenizer, tokens, [True] * len(tokens), most=100, width=40)
    assert all(cell_len(line) <= 40 for line in lines)
    assert lines[-1] == f"... {len(tokens) - 100} more tokens"
    pieces = [piece for line in lines[:-1] for piece in line.partition("│")[2].split("│")[:-1]]
    assert len(pieces) == 100
    positions = [int(line.partition("│")[0]) for line in lines[:-1]]
    counts = [len(line.split("│")) - 2 for line in lines[:-1]]
    assert positions == [0, *np.cumsum(counts)[:-1]]
    assert "more" not in shown(tokenizer, tokens, [True] * len(tokens))[-1]
