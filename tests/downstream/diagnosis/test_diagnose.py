"""Each measurement of a diagnosis equals its definition, computed prompt by prompt without padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from pause_megatron.cli.main import main
from pause_megatron.downstream.diagnosis.answers import best_constant, measure_answers
from pause_megatron.downstream.diagnosis.diagnose import measure_positions
from pause_megatron.downstream.diagnosis.pause_embedding import measure_embedding
from pause_megatron.downstream.model_folder import ModelFolder, load_model_folder
from pause_megatron.downstream.pausing import Pausing
from pause_megatron.downstream.tasks import TextPair
from pause_megatron.downstream.training_examples import encode_example
from pause_megatron.errors import EXIT_DONE, EXIT_USER
from pause_megatron.records.diagnosis import DiagnosisRecord
from pause_megatron.records.files import read_record

PAIRS = [TextPair("What is 7 + 5?", " 12"), TextPair("Name a colour of the sky:", " blue"), TextPair("0110:", "0")]
NUM_PAUSES = 3
SETTINGS = [
    Pausing(num_pauses=NUM_PAUSES),
    Pausing(num_pauses=NUM_PAUSES, prefix_attention="bidirectional"),
    Pausing(num_pauses=NUM_PAUSES, placement="prepend"),
]


def passes(folder: ModelFolder, pausing: Pausing) -> list[tuple[Any, Any, list[str]]]:
    """For each pair alone: its example, the outputs of stock transformers, and the kind of each position."""
    folder.model.set_attn_implementation("eager")
    found = []
    for pair in PAIRS:
        example = encode_example(pair, folder, pausing)
        ids = torch.from_numpy(example.input_ids)[None]
        length, border = ids.shape[1], len(example.prefix)
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
        if pausing.bidirectional:
            mask[:border, :border] = 0
        with torch.no_grad():
            output = folder.model(
                ids, attention_mask=mask[None, None], output_attentions=True, output_hidden_states=True
            )
        kinds = [
            "pauses" if token == folder.pause_id else "prompt" if place < border else "answer"
            for place, token in enumerate(example.input_ids.tolist())
        ]
        found.append((example, output, kinds))
    return found


def queries_of(kind: str, kinds: list[str], border: int) -> list[int]:
    """Positions whose attention counts for ``kind``."""
    if kind == "answer":
        return list(range(border - 1, len(kinds) - 1))
    return [place for place, each in enumerate(kinds) if each == kind]


@pytest.mark.parametrize("pausing", SETTINGS, ids=["append", "bidirectional", "prepend"])
def test_attention_shares_equal_sums_over_single_prompts(folder: ModelFolder, pausing: Pausing) -> None:
    attention, _ = measure_positions(folder, PAIRS, pausing, batch_size=2)
    assert [(one.queries, one.keys) for one in attention][:2] == [("answer", "pauses"), ("answer", "prompt")]
    for one in attention:
        shares: list[list[list[float]]] = [[[] for _ in range(4)] for _ in range(2)]
        uniform = []
        for example, output, kinds in passes(folder, pausing):
            border = len(example.prefix)
            keys = [place for place, kind in enumerate(kinds) if kind == one.keys]
            for query in queries_of(one.queries, kinds, border):
                sees = range(border) if pausing.bidirectional and query < border else range(query + 1)
                uniform.append(len(set(sees) & set(keys)) / len(sees))
                for layer, weights in enumerate(output.attentions):
                    for head in range(4):
                        shares[layer][head].append(float(weights[0, head, query, keys].sum()))
        assert one.uniform == pytest.approx(fmean(uniform))
        for layer in range(2):
            for head in range(4):
                assert one.heads[layer][head] == pytest.approx(fmean(shares[layer][head]), abs=1e-6)


def test_logit_lens_reads_each_layer_with_the_final_norm(folder: ModelFolder) -> None:
    pausing = SETTINGS[0]
    _, lens = measure_positions(folder, PAIRS, pausing, batch_size=2)
    assert [one.layer for one in lens] == [0, 1, 2]
    model: Any = folder.model
    norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    for one in lens:
        for pause in range(NUM_PAUSES):
            predicted = []
            for example, output, kinds in passes(folder, pausing):
                states = output.hidden_states[one.layer][0, kinds.index("pauses") + pause]
                logits = model.lm_head(states if one.layer == 2 else norm(states)).detach()
                predicted.append((logits.log_softmax(-1), int(example.target.ids[0])))
            scores = [float(found[answer]) for found, answer in predicted]
            entropies = [float(-(found.exp() * found).sum()) for found, _ in predicted]
            assert one.answer_log_probability[pause] == pytest.approx(fmean(scores), abs=1e-4)
            assert one.entropy[pause] == pytest.approx(fmean(entropies), abs=1e-4)
            assert one.answer_share[pause] == fmean(int(found.argmax()) == answer for found, answer in predicted)
            tops = Counter(int(found.argmax()) for found, _ in predicted)
            assert one.top_share[pause] == pytest.approx(max(tops.values()) / 3)
    # the last layer's prediction at the last pause is the model's own
    last = [output.logits[0, len(example.prefix) - 1] for example, output, _ in passes(folder, pausing)]
    own = fmean(
        float(logits.log_softmax(-1)[int(example.target.ids[0])])
        for logits, (example, _, _) in zip(last, passes(folder, pausing), strict=True)
    )
    assert lens[-1].answer_log_probability[-1] == pytest.approx(own, abs=1e-4)


def test_answers_are_compared_with_those_of_the_reference(folder: ModelFolder) -> None:
    answers = measure_answers(folder, PAIRS, SETTINGS[0], [0, 8], batch_size=2)
    assert [one.num_pauses for one in answers] == [0, 3, 8]
    assert answers[1].same_first_token == 1.0
    reference = [
        int(output.logits[0, len(example.prefix) - 1].argmax()) for example, output, _ in passes(folder, SETTINGS[0])
    ]
    for one in answers:
        found = passes(folder, Pausing(num_pauses=one.num_pauses))
        scores, firsts = [], []
        for example, output, _ in found:
            logits = output.logits[0, len(example.prefix) - 1 : -1].log_softmax(-1)
            target = torch.from_numpy(example.target.ids)
            scores.append(float(logits.gather(1, target[:, None]).sum()))
            firsts.append(int(logits[0].argmax()))
        assert one.log_probability == pytest.approx(fmean(scores), abs=1e-3)
        assert one.same_first_token == fmean(map(int.__eq__, firsts, reference))
        [(top, count)] = Counter(firsts).most_common(1)
        assert (one.top_token, one.top_share) == (folder.tokenizer.decode([top]), count / len(PAIRS))
        assert one.correct == 0.0  # a random model answers nothing


def test_the_best_constant_answer_is_the_most_frequent_first_token(folder: ModelFolder) -> None:
    pairs = [TextPair(f"{number}:", answer) for number, answer in enumerate(("0", "1", "0", "1", "0"))]
    assert best_constant(folder, pairs, SETTINGS[0]) == 0.6
    assert best_constant(folder, pairs[:1], SETTINGS[0]) == 1.0


def test_an_answer_is_correct_without_its_end(folder: ModelFolder) -> None:
    """The likeliest continuation as the answer: correct, whatever the model predicts after it."""
    pausing = SETTINGS[0]
    example = encode_example(TextPair("0110:", "0"), folder, pausing)
    with torch.no_grad():
        logits = folder.model(torch.from_numpy(example.prefix.ids)[None]).logits[0, -1]
    token = next(
        int(token)
        for token in logits.argsort(descending=True)
        if folder.encode(folder.tokenizer.decode([int(token)]), begins=False) == [int(token)]
    )
    answers = measure_answers(folder, [TextPair("0110:", folder.tokenizer.decode([token]))], pausing, [], 1)
    assert answers[0].correct == float(token == int(logits.argmax()))


def test_the_embedding_is_compared_with_every_other_row(folder: ModelFolder) -> None:
    [own] = measure_embedding(folder, None)
    weights = folder.model.get_input_embeddings().weight.detach()[: len(folder.tokenizer)]
    row = weights[folder.pause_id]
    cosines = {
        place: float(torch.dot(row, other) / row.norm() / other.norm())
        for place, other in enumerate(weights)
        if place != folder.pause_id
    }
    nearest = max(cosines, key=lambda place: cosines[place])
    assert own.nearest[0] == folder.tokenizer.convert_ids_to_tokens(nearest)
    assert own.nearest_cosine[0] == pytest.approx(cosines[nearest], abs=1e-5)
    assert own.norm == pytest.approx(float(row.norm()))
    assert (own.iteration, own.movement) == (None, 0.0)


def test_the_command_writes_a_record(model_path: Callable[[str], Path], parity_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "diagnosis.json"
    words = ["diagnose", "--model", str(model_path("gpt2")), "--task", "parity", "--data", str(parity_data)]
    assert main([*words, "--output", str(output), "--num-pauses-inf", "0", "2", "--limit", "5"]) == EXIT_DONE
    record = read_record(output, DiagnosisRecord)
    assert (record.num_pauses, record.num_prompts, record.num_pauses_ft) == (2, 5, None)
    assert [one.num_pauses for one in record.answers] == [0, 2]
    assert main([*words, "--output", str(output), "--num-pauses-inf", "2"]) == EXIT_USER


def test_a_model_without_pauses_is_refused(
    model_path: Callable[[str], Path], parity_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diagnose", "--model", str(model_path("gpt2")), "--task", "parity", "--data", str(parity_data)]
    assert main([*words, "--output", str(tmp_path / "diagnosis.json")]) == EXIT_USER
    assert "give --num-pauses-inf" in capsys.readouterr().err


def test_pauses_after_every_token_are_refused(
    model_path: Callable[[str], Path], parity_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diagnose", "--model", str(model_path("gpt2")), "--task", "parity", "--data", str(parity_data)]
    flags = ["--output", str(tmp_path / "diagnosis.json"), "--num-pauses-inf", "2", "--pause-placement", "every"]
    assert main([*words, *flags]) == EXIT_USER
    assert "only one run of pauses in the prompt is diagnosed" in capsys.readouterr().err


def test_random_weights_are_loaded_for_every_measurement(model_path: Callable[[str], Path]) -> None:
    """Guards the fixtures: hooks are removed, so that a second diagnosis gives the same numbers."""
    folder = load_model_folder(model_path("llama"))
    assert measure_positions(folder, PAIRS, SETTINGS[1], 3) == measure_positions(folder, PAIRS, SETTINGS[1], 3)
