"""The published numbers, and what may stand beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pause_megatron.config.model import MODEL_PRESETS, ModelConfig
from pause_megatron.report.cells import Cell, Setting
from pause_megatron.report.collect import read_evaluation
from pause_megatron.report.compare import compare
from pause_megatron.report.comparisons import paper_table
from pause_megatron.report.published import PARAMETERS, model_size, published_for

from .inputs import PAPER_1B, scored, write_ablations, write_evaluation

SMALL = PAPER_1B | {"parameters": 136_000_000}


def published(
    folder: Path, variant: str, metric: str, shape: dict[str, int] = PAPER_1B, **others: object
) -> str | None:
    """The published number for a measurement, as text with its origin."""
    values = scored(variant, 0.5, **others) | {"architecture": shape}  # type: ignore[arg-type]
    (task,) = compare([read_evaluation(write_evaluation(folder, "one", values))])
    found = published_for(task.cells[0], metric)
    return None if found is None else f"{100 * found.value:.1f} {found.origin}"


def test_numbers_are_found_by_size_task_metric_and_setting(tmp_path: Path) -> None:
    assert published(tmp_path, "stdpt_stdft", "em") == "36.4 Table 1"
    assert published(tmp_path, "pausept_pauseft", "em", num_pauses_ft=10) == "51.7 Table 1"
    assert published(tmp_path, "pausept_pauseft", "em", num_pauses_ft=50) == "55.9 Table 1"
    assert published(tmp_path, "pausept_pauseft", "em", num_pauses_ft=25) == "54.8 Fig. 4b, 7"
    assert published(tmp_path, "pausept_pauseft", "em", num_pauses_ft=50, num_pauses_inf=0) == "1.0 Fig. 4c, 4d, 8"
    assert published(tmp_path, "pausept_pauseft", "em", SMALL, num_pauses_ft=50) == "27.8 Fig. 5"
    assert published(tmp_path, "stdpt_pauseft", "rouge1", task="gsm8k", num_pauses_ft=10) == "41.7 Table 1"
    assert published(tmp_path, "stdpt_stdft", "acc", task="hellaswag") == "37.8 Table 1"
    assert published(tmp_path, "stdpt_stdft", "em", num_pauses_inf=10, filler=".") == "35.7 Fig. 4a"


def test_what_was_not_published_stands_alone(tmp_path: Path) -> None:
    assert published(tmp_path, "stdpt_stdft", "f1") is None
    assert published(tmp_path, "stdpt_stdft", "em", task="parity") is None
    assert published(tmp_path, "stdpt_stdft", "em", PAPER_1B | {"parameters": 7_000_000_000}) is None
    assert published(tmp_path, "stdpt_stdft", "em", num_pauses_inf=10) is None
    assert published(tmp_path, "pausept_pauseft", "em", SMALL, num_pauses_ft=10, num_pauses_inf=50) is None
    assert published(tmp_path, "pausept_pauseft", "em", num_pauses_ft=11) is None
    assert published(tmp_path, "stdpt_stdft", "em", prefix_attention="causal") is None


def test_presets_of_the_papers_sizes_count_as_such() -> None:
    for preset, size in (("130m", "130m"), ("1b", "1b"), ("llama-130m", "130m"), ("llama-1b", "1b")):
        config = ModelConfig(**MODEL_PRESETS[preset])  # type: ignore[arg-type]
        assert model_size(config.num_parameters(vocab_size=32_001)) == size, preset
    assert model_size(PARAMETERS["1b"] * 2) is None


def test_the_table_sets_differences_beside_each_other(tmp_path: Path) -> None:
    table = paper_table(compare(read_evaluation(path) for path in write_ablations(tmp_path)))
    assert table is not None
    rows = {tuple(entry.text for entry in row[:5]): [entry.text for entry in row[5:]] for row in table.rows}
    here, there, our_difference, their_difference, origin = rows["PausePT_PauseFT", "squad", "10", "10", "appended"]
    assert (there, their_difference, origin) == ("51.7 ± 2.3", "+15.3", "Table 1")
    baseline = rows["StdPT_StdFT", "squad", "0", "0", "–"]  # noqa: RUF001
    assert baseline[1:] == ["36.4 ± 2.5", "–", "–", "Table 1"]  # noqa: RUF001
    assert float(our_difference) == pytest.approx(float(here.split()[0]) - float(baseline[0].split()[0]), abs=0.11)
    assert rows["PausePT_PauseFT", "squad", "10", "10", "prepended"][1] == "44.0"


FACTS = Path(__file__).parents[3] / "shared" / "paper" / "results.json"


@pytest.mark.skipif(not FACTS.is_file(), reason="the paper's numbers in machine form do not lie beside the repository")
def test_table_1_is_the_papers(tmp_path: Path) -> None:
    facts = json.loads(FACTS.read_text())["1b"]
    model = read_evaluation(write_evaluation(tmp_path, "one", scored("stdpt_stdft", 0.5)))
    found, expected = {}, {}
    for key, values in facts.items():
        if key in ("origin", "columns"):
            continue
        task, _, metric = key.rpartition("_")
        for column, numbers in zip(facts["columns"], values, strict=True):
            pretrained, finetuned, *pauses = column.split("_")
            number = int(pauses[0]) if pauses else 0
            setting = Setting(
                task=task,
                model=f"{pretrained}_{finetuned}",
                num_pauses_ft=number,
                num_pauses_inf=number,
                prefix_attention="bidirectional",
            )
            one = published_for(
                Cell(setting=setting, evaluations=(model,)), "acc" if task in ("piqa", "hellaswag") else metric
            )
            assert one is not None, (key, column)
            assert one.deviation is not None
            found[key, column] = [round(100 * one.value, 6), round(100 * one.deviation, 6)]
            expected[key, column] = numbers
    assert found == expected
    assert len(found) == 60
