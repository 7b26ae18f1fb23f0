"""Loader of Hugging Face models: the model, its tokenizer, and the records of its pretraining and finetuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pause_megatron import log
from pause_megatron.config.deepspeed import TORCH_DTYPES
from pause_megatron.config.downstream import Precision
from pause_megatron.conversion.hf_config import pause_positions_of, read_hf_config
from pause_megatron.conversion.stored_weights import StoredWeights
from pause_megatron.downstream.causal_models import bidirectional_problem, context_length_of, load_causal_model
from pause_megatron.downstream.hub_models import find_model
from pause_megatron.downstream.sharing_trial import branching_problem, sharing_problem
from pause_megatron.errors import UserError, quoted, system_error
from pause_megatron.parallel.process_device import choose_device
from pause_megatron.records.checksums import compare_checksums, refuse_unrecorded
from pause_megatron.records.conversion import ExportRecord, PretrainingRecord
from pause_megatron.records.files import read_record
from pause_megatron.records.finetuning import FinetuneRecord
from pause_megatron.tokenizer import PAUSE_TOKEN
from pause_megatron.tokenizer.huggingface import ids_before_text
from pause_megatron.tokenizer.token_marks import only_pause_id
from pause_megatron.tokenizer.tokenizers_backend import cannot_encode

_CHANGES_TOKENS = ("special_tokens_map.json", "added_tokens.json")
"""Files that no export needs, with which transformers gives a tokenizer other special tokens or further ones."""


@dataclass(frozen=True)
class ModelFolder:
    """A loaded model with its special token ids and its history."""

    path: Path
    """Folder of the model, or its name on the hub, as the user gave it."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pause_id: int | None
    """Id of ``<pause>``, or of the first of distinct pauses; ``None`` if the tokenizer has none."""
    eod_id: int
    """End-of-document, which ends a generated answer."""
    stop_ids: tuple[int, ...]
    """All tokens that end a generated answer: ``eod_id``, and others of its generation config, as the end of a turn."""
    context_length: int
    """Largest sequence (tokens; without pauses if they share positions)."""
    pretraining: PretrainingRecord | None
    """``None`` for a model that was not exported from a checkpoint of this project."""
    finetuning: FinetuneRecord | None
    """``None`` for a model that is not finetuned."""
    distinct_pauses: int = 1
    """Number of distinct pauses; their ids follow each other."""
    files: Path = field(default_factory=Path)
    """Folder with its files; that of the cache for a model of the hub."""

    @property
    def pause_ids(self) -> tuple[int, ...]:
        """Ids of the pauses; empty if the tokenizer has none."""
        return () if self.pause_id is None else tuple(range(self.pause_id, self.pause_id + self.distinct_pauses))

    @property
    def model_name(self) -> str:
        """Name of the pretrained model: that of finetuning, or else of its pretraining, or else of its folder."""
        named = self.finetuning.model_name if self.finetuning else None
        return named or (self.pretraining.model if self.pretraining else self.path.resolve().name)

    @property
    def shares_positions(self) -> bool:
        """Whether a pause has the position index of the real token before it, and :attr:`context_length` counts only
        real tokens."""
        return pause_positions_of(self.model.config) == "shared"

    @cached_property
    def bidirectional_problem(self) -> str | None:
        """Why the model cannot read a prefix with attention in both directions, found by a trial; None if it can."""
        return bidirectional_problem(self.model)

    @cached_property
    def sharing_problem(self) -> str | None:
        """Why answers of the model cannot share the states of a prompt, found by a trial; None if they can."""
        return sharing_problem(self.model, self.context_length)

    @cached_property
    def branching_problem(self) -> str | None:
        """Why answers after the same prompt cannot be read in one row, found by a trial; None if they can."""
        return branching_problem(self.model)

    @cached_property
    def bos_ids(self) -> tuple[int, ...]:
        """The beginning-of-text token if the tokenizer puts one before a text, else empty; few put several."""
        return ids_before_text(self.tokenizer)

    @property
    def baked_pauses(self) -> int:
        """Pauses that the tokenizer appends to a text by itself, for other programs; 0 without baked pauses."""
        return sum(token in self.pause_ids for token in self.tokenizer.encode("a"))

    def encode(self, text: str, *, begins: bool = True) -> list[int]:
        """Return the ids of ``text`` after the beginning-of-text token, once; without it if ``begins`` is False.

        Other tokens that the tokenizer adds, such as baked pauses, are left out. Raises :class:`UserError` for a text
        that the tokenizer cannot encode.
        """
        try:
            ids, start = list(self.tokenizer.encode(text, add_special_tokens=False)), list(self.bos_ids)
        except Exception as error:  # the library's own
            raise cannot_encode(self.path, error) from error
        return ids if not begins or ids[: len(start)] == start else [*start, *ids]


def load_model_folder(
    path: Path | str, precision: Precision = "fp32", *, device: torch.device | str | None = None
) -> ModelFolder:
    """Load the model and the tokenizer of ``path`` onto ``device``; by default onto this process's device.

    ``path`` is a folder, or the name of a model on the hub. If the process has not chosen a device, that is the first
    GPU, or the CPU if there is none.

    Raises :class:`UserError` if there is neither a folder nor a model on the hub, if it is not a causal language model
    with an end-of-document token, if tensors are missing, unknown, quantized or not finite, if its stop tokens are not
    token ids, if its ``finetune.json`` or ``conversion_report.json`` is damaged, or if a file differs from its checksum
    there.
    """
    path = Path(path)
    files = find_model(path)
    for name in ("config.json", "tokenizer_config.json"):
        if not (files / name).is_file():
            raise UserError(f"{path}: no {name}; give a folder with a Hugging Face model and its tokenizer")
    origin = origin_of(files)
    settings, stored = read_hf_config(files), StoredWeights(files)
    stored.require_layers(getattr(settings.get_text_config(), "num_hidden_layers", 0))
    try:
        tokenizer = AutoTokenizer.from_pretrained(files, trust_remote_code=False)
        ids_before_text(tokenizer)  # settings of a wrong type fail only when the tokenizer is used
        model, loading = load_causal_model(files, settings, getattr(torch, TORCH_DTYPES[precision]))
    except UserError:
        raise
    except Exception as error:  # damaged files make many kinds
        if refused := system_error(error):
            raise refused from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: not a Hugging Face causal language model: {reason}") from error
    stored.refuse_quantized(name for name, _ in model.named_parameters())
    _refuse_bad_tensors(path, model, loading)
    folder = replace(
        model_in_memory(model.to(device or choose_device()).eval(), tokenizer, path),
        pretraining=origin.pretraining if origin else None,
        finetuning=origin if isinstance(origin, FinetuneRecord) else None,
        files=files,
    )
    if folder.bos_ids:
        log.info(f"{path}: every prompt begins with {tokenizer.decode(folder.bos_ids)}, as its tokenizer puts it there")
    return folder


def model_in_memory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path | None = None
) -> ModelFolder:
    """Return a loaded model, as it is, with what its tokenizer and its settings say of it; its history is unknown.

    ``path`` names it in messages; by default the name that transformers gave it. Raises :class:`UserError` for a
    tokenizer without an end-of-document token, for a ``<pause>`` without an embedding, and for wrong stop tokens.
    """
    path = path or Path(model.name_or_path or "the model")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: its tokenizer has no end-of-document token; set eos_token in tokenizer_config.json")
    pause_ids = pause_ids_of(path, tokenizer)
    rows = model.get_input_embeddings().num_embeddings
    if pause_ids and pause_ids[-1] >= rows:
        raise UserError(
            f"{path}: {PAUSE_TOKEN} has id {pause_ids[-1]}, but the model has only {rows} embeddings; export it again"
        )
    return ModelFolder(
        path=path,
        model=model,
        tokenizer=tokenizer,
        pause_id=pause_ids[0] if pause_ids else None,
        distinct_pauses=len(pause_ids) or 1,
        eod_id=tokenizer.eos_token_id,
        stop_ids=_stop_ids(path, model, tokenizer),
        context_length=context_length_of(model, tokenizer),
        pretraining=None,
        finetuning=None,
    )


def pause_ids_of(path: Path, tokenizer: PreTrainedTokenizerBase) -> range:
    """Return the ids of ``<pause>`` or of distinct pauses; empty without any. With both, ``<pause>`` is unused.

    Raises :class:`UserError` if those of distinct pauses are not in a row.
    """
    vocabulary = tokenizer.get_vocab()
    names = takewhile(vocabulary.__contains__, map("<pause{}>".format, count(1)))
    found = [vocabulary[name] for name in names]
    if not found and (only := only_pause_id(vocabulary)) is not None:
        found = [only]
    if found != list(range(found[0], found[0] + len(found)) if found else ()):
        raise UserError(f"{path}: the ids of its distinct pauses are {found}, not in a row; export the model again")
    return range(found[0], found[0] + len(found)) if found else range(0)


def _stop_ids(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the end-of-document token and the stop tokens of ``model``, as stock ``generate`` uses them.

    Warns of those that are text. Raises :class:`UserError` for one that is no token id.
    """
    found = model.generation_config.eos_token_id
    listed = found if isinstance(found, list) else [found]
    known = []
    for token in listed:
        if token is not None and type(token) is not int:
            raise UserError(f"{path}: eos_token_id {quoted(token)} is not a token id; correct generation_config.json")
        if token is not None and 0 <= token < len(tokenizer):
            known.append(token)
            if text := tokenizer.decode([token], skip_special_tokens=True):
                log.warn(
                    f"{path}: answers end at token {token}, which is the text {text!r}; see generation_config.json"
                )
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *known]))


def origin_of(path: Path) -> FinetuneRecord | ExportRecord | None:
    """Return the record of the model in ``path``, None for a model of elsewhere; compare the files it has checksums of.

    Raises :class:`UserError` for a damaged record or file.
    """
    kinds: tuple[type[FinetuneRecord] | type[ExportRecord], ...] = (FinetuneRecord, ExportRecord)
    for kind in kinds:
        if (path / kind.FILE).is_file():
            record = read_record(path / kind.FILE, kind)
            if record.files:  # older records have none
                compare_checksums(path, record.files, kind.FILE)
                refuse_unrecorded(path, record.files, kind.FILE, _CHANGES_TOKENS)
            return record
    return None


def _refuse_bad_tensors(path: Path, model: PreTrainedModel, loading: dict[str, Any]) -> None:
    """Raise :class:`UserError` for what transformers replaces by random numbers, ignores, or does not look at."""
    for names, problem in (
        (loading["missing_keys"], "is missing"),
        (loading["unexpected_keys"], "is unknown to its architecture"),
        (loading["mismatched_keys"], "has another shape than in config.json"),
        (not_finite(dict(model.named_parameters())), "has values that are not finite"),
    ):
        if names:
            first = sorted(str(name) for name in names)[0]
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{path}: tensor {first} {problem}{more}; copy or export the model again")


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the ``tensors`` that have infinities or NaN."""
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
