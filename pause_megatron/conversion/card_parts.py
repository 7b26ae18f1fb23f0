"""Parts of model cards: the metadata that the hub reads, and programs that run when they are pasted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

CARD_FILE = "README.md"
_KEPT = ("license", "license_name", "license_link", "language", "datasets")
"""Metadata of a model that also hold for one that was trained from it."""
_PROMPT = "The capital of France is"


@dataclass(frozen=True, kw_only=True)
class CardOrigin:
    """Where a model comes from, as far as it is known."""

    folder: Path | None = None
    """Folder of the model that it was trained from, whose card has its license, language and datasets."""
    hub_name: str | None = None
    """Name of that model on the hub."""
    datasets: tuple[str, ...] = ()
    """Names on the hub of the data that it was trained on."""


def card_metadata(name: str, origin: CardOrigin, results: Sequence[EvalResult] = ()) -> str:
    """Return the YAML at the top of the card of the model ``name``, between its two lines of dashes."""
    kept = _metadata_of(origin.folder)
    values: dict[str, Any] = {key: kept[key] for key in _KEPT if kept.get(key)}
    before = values.pop("datasets", [])
    datasets = [*([before] if isinstance(before, str) else before), *origin.datasets]
    base = origin.hub_name or kept.get("base_model")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pause-training"],
        datasets=list(dict.fromkeys(datasets)) or None,
        base_model=base,
        model_name=name if results else None,
        eval_results=list(results) or None,
        **values,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _metadata_of(folder: Path | None) -> dict[str, Any]:
    """Return the metadata of the card in ``folder``; empty without a card, and for one that cannot be read."""
    if folder is None or not (folder / CARD_FILE).is_file():
        return {}
    try:
        found: dict[str, Any] = ModelCard.load(folder / CARD_FILE, ignore_metadata_errors=True).data.to_dict()
    except Exception:  # a card is free text, whose YAML can have any content
        return {}
    return found


def appending_program(name: str, pause_ids: Sequence[int]) -> str:
    """Return a program that appends ``pause_ids`` to a prompt with stock transformers."""
    return _program(f'''
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
prompt = tokenizer("{_PROMPT}", return_tensors="pt").input_ids
pauses = torch.tensor([{_list(pause_ids)}])
ids = torch.cat([prompt, pauses], dim=1)
output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
print(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
''')


def pipeline_program(name: str) -> str:
    """Return a program that uses the pipeline of stock transformers."""
    return _program(f'''
from transformers import pipeline

pipe = pipeline("text-generation", model="{name}")
print(pipe("{_PROMPT}", max_new_tokens=20, do_sample=False, return_full_text=False)[0]["generated_text"])
''')


def own_program(name: str) -> str:
    """Return a program that pauses as the model was trained, with this project."""
    return _program(f'''
from pause_megatron.downstream.generation import generate_texts
from pause_megatron.downstream.model_folder import load_model_folder

model = load_model_folder("{name}")
[answer] = generate_texts(model, ["{_PROMPT}"], max_new_tokens=20)
print(answer)
''')


def _program(code: str) -> str:
    return f"```python\n{code.strip()}\n```"


def _list(ids: Sequence[int]) -> str:
    same = len(ids) > 1 and len(set(ids)) == 1
    return f"[{ids[0]}] * {len(ids)}" if same else str(list(ids))
