"""The published numbers, and the measurements that are compared with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.records.evaluation import Architecture
from pause_megatron.report.sections.published import (
    PARAMETERS,
    later_results_table,
    model_size,
    published_for,
    published_table,
)

from ..inputs import PAPER_1B, ablations, grouped, scored

SMALL = replace(PAPER_1B, parameters=136_000_000, num_layers=12, hidden_size=768)


def published(variant: str, metric: str, shape: Architecture = PAPER_1B, **others: object) -> str | None:
    """The published number for a measurement, as text with its origin."""
    (task,) = grouped(scored(variant, 0.5, architecture=shape, **others))  # type: ignore[arg-type]
    found = published_for(task.measurements[0], metric)
    return None if found is None else f"{found.value:.1f} {found.origin}"


def test_numbers_are_found_by_size_task_metric_and_setting() -> None:
    assert published("stdpt_stdft", "em") == "36.4 Table 1"
    assert published("pausept_pauseft", "em", num_pauses_ft=10) == "51.7 Table 1"
    assert published("pausept_pauseft", "em", num_pauses_ft=50) == "55.9 Table 1"
    assert published("pausept_pauseft", "em", num_pauses_ft=25) == "54.8 Fig. 4b, 7"
    assert published("pausept_pauseft", "em", num_pauses_ft=50, num_pauses_inf=0) == "1.0 Fig. 4c, 4d, 8"
    assert published("pausept_pauseft", "em", SMALL, num_pauses_ft=50) == "27.8 Fig. 5"
    assert published("stdpt_pauseft", "rouge1", task="gsm8k", num_pauses_ft=10) == "41.7 Table 1"
    assert published("stdpt_stdft", "acc", task="hellaswag") == "37.8 Table 1"
    assert published("stdpt_stdft", "em", num_pauses_inf=10, filler=".") == "35.7 Fig. 4a"


def test_other_settings_have_no_published_number() -> None:
    assert published("stdpt_stdft", "f1") is None
    assert published("stdpt_stdft", "em", task="parity") is None
    assert published("stdpt_stdft", "em", replace(PAPER_1B, num_layers=32)) is None
    assert published("stdpt_stdft", "em", num_pauses_inf=10) is None
    assert published("pausept_pauseft", "em", SMALL, num_pauses_ft=10, num_pauses_inf=50) is None
    assert published("pausept_pauseft", "em", num_pauses_ft=11) is None
    assert published("stdpt_stdft", "em", prefix_attention="causal") is None
    assert published("pausept_pauseft", "em", num_pauses_ft=10, hint_weight=1.0) is None


@pytest.mark.parametrize("vocab_size", [32_001, 50_258, 128_257])
def test_presets_of_the_papers_sizes_are_compared_with_its_models_whatever_the_vocabulary(vocab_size: int) -> None:
    for preset, size in (("130m", "130m"), ("1b", "1b"), ("llama-130m", "130m"), ("llama-1b", "1b")):
        config = ModelConfig(**MODEL_PRESETS[preset])  # type: ignore[arg-type]
        shape = Architecture(
            parameters=config.num_parameters(vocab_size=vocab_size),
            num_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.hidden_size // config.num_attention_heads,
            hidden_size=config.hidden_size,
        )
        assert model_size(shape) == size, preset
    assert model_size(replace(PAPER_1B, hidden_size=2560)) is None


def test_a_1b_model_with_the_vocabulary_of_gpt2_has_the_published_numbers() -> None:
    config = ModelConfig(**MODEL_PRESETS["1b"])  # type: ignore[arg-type]
    shape = replace(PAPER_1B, parameters=config.num_parameters(vocab_size=50_258))
    assert shape.parameters > 1.05 * PARAMETERS["1b"]
    table = published_table(grouped(*(replace(record, architecture=shape) for record in ablations())))
    assert {"36.4 ± 2.5", "51.7 ± 2.3"} <= {row[6].text for row in table.rows}


def test_results_of_later_papers_all_have_a_source_and_two_numbers() -> None:
    table = later_results_table()
    assert len(table.rows) >= 10
    assert all(cell.text for row in table.rows for cell in row)
    assert {row[-1].text for row in table.rows} >= {"PonderLM 2025 (arXiv 2505.20674)"}


def test_the_table_has_our_difference_and_the_published_one() -> None:
    table = published_table(grouped(*ablations()))
    rows = {tuple(cell.text for cell in row[:5]): [cell.text for cell in row[5:]] for row in table.rows}
    here, there, our_difference, their_difference, origin = rows["PausePT_PauseFT", "squad", "10", "10", "appended"]
    assert (there, their_difference, origin) == ("51.7 ± 2.3", "+15.3", "Table 1")
    baseline = rows["StdPT_StdFT", "squad", "0", "0", "–"]  # noqa: RUF001
    assert baseline[1:] == ["36.4 ± 2.5", "–", "–", "Table 1"]  # noqa: RUF001
    assert float(our_difference) == pytest.approx(float(here.split()[0]) - float(baseline[0].split()[0]), abs=0.11)
    assert rows["PausePT_PauseFT", "squad", "10", "10", "prepended"][1] == "44.0"


FACTS = Path(__file__).parents[4] / "shared" / "paper" / "results.json"


@pytest.mark.skipif(not FACTS.is_file(), reason=f"no {FACTS.name} with the paper's numbers next to the repository")
def test_published_numbers_of_table_1_equal_the_papers() -> None:
    facts = json.loads(FACTS.read_text())["1b"]
    (task,) = grouped(scored("stdpt_stdft", 0.5))
    (measurement,) = task.measurements
    found, expected = {}, {}
    for key, values in facts.items():
        if key in ("origin", "columns"):
            continue
        name, _, metric = key.rpartition("_")
        for column, numbers in zip(facts["columns"], values, strict=True):
            pretrained, finetuned, *pauses = column.split("_")
            number = int(pauses[0]) if pauses else 0
            setting = replace(
                measurement.setting,
                task=name,
                model=f"{pretrained}_{finetuned}",
                num_pauses_ft=number,
                num_pauses_inf=number,
            )
            metric = "acc" if name in ("piqa", "hellaswag") else metric
            one = published_for(replace(measurement, setting=setting), metric)
            assert one is not None, (key, column)
            found[key, column] = [one.value, one.deviation]
            expected[key, column] = numbers
    assert found == expected
    assert len(found) == 60
