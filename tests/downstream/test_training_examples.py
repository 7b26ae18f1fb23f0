"""Examples of finetuning: tokens, pauses, labels and batches."""

import pytest
import torch

from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import PauseCollator, PausedExamples
from pause_megatron.errors import UserError
from pause_megatron.pauses.prompts import IGNORE_INDEX


def test_target_is_learned_with_its_end_and_nothing_else_is(folder):
    pairs = [TextPair("0110:", "0"), TextPair("1:", "1")]
    examples = PausedExamples(pairs, folder, Pausing(num_pauses=2))
    batch = PauseCollator(folder.eod_id, bidirectional=True, dtype=torch.float32)(examples)
    word = folder.tokenizer.convert_tokens_to_ids
    pause, eod = folder.pause_id, folder.eod_id
    assert batch["input_ids"].tolist() == [
        [*word(["0", "1", "1", "0", ":"]), pause, pause, word("0"), eod],
        [eod, eod, eod, *word(["1", ":"]), pause, pause, word("1"), eod],
    ]
    assert batch["labels"].tolist() == [[IGNORE_INDEX, word("0"), eod], [IGNORE_INDEX, word("1"), eod]]
    assert batch["position_ids"].tolist() == [list(range(9)), [0, 0, 0, *range(6)]]


def test_targets_of_unequal_length_are_padded_without_labels(folder):
    examples = PausedExamples([TextPair("x:", " 12 13"), TextPair("y:", " 1")], folder, Pausing(num_pauses=1))
    labels = PauseCollator(folder.eod_id, bidirectional=True, dtype=torch.float32)(examples)["labels"]
    assert (labels[0] == IGNORE_INDEX).tolist() == [True] + [False] * (labels.shape[1] - 1)
    assert (labels[1] != IGNORE_INDEX).sum() == len(examples[1].target)


def test_loss_is_the_mean_over_target_tokens_of_the_rows_by_themselves(folder):
    """Padding, alignment and the slice of logits change nothing: each row by itself, with all logits, agrees."""
    pairs = [TextPair("0110:", "0"), TextPair("x = y", " + 12 or 13"), TextPair("", "1")]
    examples = PausedExamples(pairs, folder, Pausing(num_pauses=2))
    collate = PauseCollator(folder.eod_id, bidirectional=True, dtype=torch.float32)
    with torch.no_grad():
        together = folder.model(**collate(examples)).loss
        total, tokens = 0.0, 0
        for example in examples:
            inputs = collate([example])
            inputs |= {"logits_to_keep": 0, "labels": torch.tensor(example.labels)[None]}
            total += float(folder.model(**inputs).loss) * len(example.target)
            tokens += len(example.target)
    assert float(together) == pytest.approx(total / tokens, abs=1e-5)


def test_context_and_target_are_encoded_as_the_text_they_make(folder):
    [example] = PausedExamples([TextPair("The import", " statement")], folder, Pausing(num_pauses=0))
    ids = folder.tokenizer.encode("The import statement", add_special_tokens=False)
    assert example.input_ids.tolist() == [*ids, folder.eod_id]
    context = folder.tokenizer.encode("The import", add_special_tokens=False)
    assert example.prefix.tolist() == context


def test_context_keeps_its_tokens_if_joint_encoding_would_change_them(folder):
    """Generation starts from the context's own tokens, so training must do the same."""
    assert len(folder.tokenizer.encode(" the", add_special_tokens=False)) == 1
    [example] = PausedExamples([TextPair(" t", "he")], folder, Pausing(num_pauses=0))
    assert example.prefix.tolist() == folder.tokenizer.encode(" t", add_special_tokens=False)
    assert folder.tokenizer.decode(example.target.ids[:-1]) == "he"


def test_number_of_pauses_is_drawn_for_every_example(folder):
    pairs = [TextPair("x:", " 1")] * 60
    drawn, again, others = (
        [int((example.prefix.ids == folder.pause_id).sum()) for example in examples]
        for examples in (
            PausedExamples(pairs, folder, Pausing(num_pauses=5), fewest=1, seed=seed) for seed in (3, 3, 4)
        )
    )
    assert set(drawn) == {1, 2, 3, 4, 5}
    assert drawn == again != others


def test_number_of_pauses_does_not_depend_on_the_reading_order(folder):
    pairs = [TextPair("x:", " 1")] * 20
    forwards, backwards = (PausedExamples(pairs, folder, Pausing(num_pauses=9), fewest=0, seed=3) for _ in range(2))
    expected = [len(forwards[index].prefix) for index in range(20)]
    assert [len(backwards[index].prefix) for index in reversed(range(20))] == expected[::-1]


def test_every_epoch_draws_other_numbers_of_pauses(folder):
    examples = PausedExamples([TextPair("x:", " 1")] * 60, folder, Pausing(num_pauses=5), fewest=1, seed=3)
    drawn = []
    for epoch in (0, 1, 0):
        examples.start_epoch(epoch)
        drawn.append([len(examples[index].prefix) for index in range(60)])
    assert drawn[0] != drawn[1]
    assert drawn[0] == drawn[2]


def test_error_names_the_example_without_the_marker(folder):
    pausing = Pausing(num_pauses=2, placement="before-marker", marker="Answer:")
    pairs = [TextPair("2 Answer:", " 3"), TextPair("Where was it said that " * 3, " 1")]
    examples = PausedExamples(pairs, folder, pausing)
    assert (examples[0].prefix.ids == folder.pause_id).sum() == 2
    with pytest.raises(UserError, match=r"^training example 2 \('Where was it .*…'\): --pause-marker 'Answer:'"):
        examples[1]


def test_finetuning_places_pauses_as_configured(folder):
    [example] = PausedExamples([TextPair("a class is a", " thing")], folder, Pausing(num_pauses=2, placement="prepend"))
    context = folder.tokenizer.encode("a class is a")
    assert example.prefix.tolist() == [folder.pause_id] * 2 + context
    assert example.target.ids[-1] == folder.eod_id
