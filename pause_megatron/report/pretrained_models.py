"""Identity of the pretrained models behind results: their seeds, and what else their pretraining may differ in."""

from dataclasses import fields

from pause_megatron.records.conversion import PretrainingRecord
from pause_megatron.report.collect import EvaluationResult


def seeds_of(result: EvaluationResult) -> tuple[int, int, str]:
    """Seeds of pretraining and finetuning, -1 if unknown or none; and the run's name, for runs of unknown seeds."""
    pretraining, seed = result.record.pretraining, result.record.seed
    finetuning = -1 if seed is None else seed
    if pretraining is None or pretraining.seed is None:
        return -1, finetuning, pretraining.name if pretraining else ""
    return pretraining.seed, finetuning, ""


def difference_besides_seed(one: PretrainingRecord | None, other: PretrainingRecord | None) -> str | None:
    """Name the first field in which two pretrainings differ, other than the seed, the run's name and the token counts.

    Runs with other seeds see other sequences first, and so slightly different numbers of pauses.
    """
    if one is None or other is None:
        return None if one is other else "whether they are of this project"
    free = {"name", "model_name", "seed", "real_tokens", "pause_tokens"}
    names = (field.name for field in fields(PretrainingRecord) if field.name not in free)
    found = next((name for name in names if getattr(one, name) != getattr(other, name)), None)
    if found is None and one.seed is None and one != other:
        return "name or tokens"
    return found
