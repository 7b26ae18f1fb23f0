"""Tasks: one lm-evaluation-harness definition each, for finetuning and evaluation, so that their prompts are the same.

:mod:`~pause_megatron.config.task_definitions` finds the definition. In those of this project, ``metadata`` has
``fields`` and ``optional_fields`` of a local record (:data:`~pause_megatron.downstream.task_data.Fields`), ``rules``
that relate them (:data:`~pause_megatron.downstream.task_data.Rules`), and ``halved: true`` if the task has no training
split. Other definitions may have these keys too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import walk_tb
from typing import Any

import datasets
from lm_eval.api import task as task_module
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks._yaml_loader import load_yaml

from pause_megatron.config.task_definitions import Definition, find_definition
from pause_megatron.downstream.task_data import HALF, HINTS, TRAIN, HintCheck, halved_splits
from pause_megatron.downstream.task_sources import splits_of
from pause_megatron.errors import UserError, one_line, system_error

_SCORED = ("multiple_choice", "loglikelihood")
"""Kinds of output whose answers are scored after a prompt, and not decoded."""
_FEWSHOT_SEED = 1234
"""Seed of the choice of few-shot examples: the harness's default."""


@dataclass(frozen=True)
class TextPair:
    """A training document as text."""

    context: str
    target: str
    """Text after the context, with its delimiter."""
    hints: Any = None
    """The record's ``hints``, the labels at its pauses, as :mod:`~pause_megatron.downstream.hints` checks them."""


@dataclass(frozen=True)
class Task:
    """A task's definition with its data."""

    name: str
    harness: ConfigurableTask
    """Task object of lm-evaluation-harness."""
    halved: bool
    """Whether half of the evaluation split is used for finetuning and not evaluated."""
    definition: Definition
    system_instruction: str | None = None
    """Text before every prompt of finetuning."""
    chat: Callable[..., str] | None = None
    """Chat template that words the prompts of finetuning; turns the messages of a chat to text."""

    @property
    def metrics(self) -> list[str]:
        """Metrics of the definition, or the harness's for its kind of output, in order."""
        return list(self.harness.aggregation())

    @property
    def scores_texts(self) -> bool:
        """Whether complete texts are scored, which have no prompts."""
        return bool(self.harness.OUTPUT_TYPE == "loglikelihood_rolling")

    @property
    def has_choices(self) -> bool:
        """Whether the answer is one of several choices, by its index."""
        return self.harness.config.doc_to_choice is not None

    def require_room(self, context_length: int) -> None:
        """Raise :class:`UserError` if a model of ``context_length`` positions has no room for a decoded answer."""
        if self.harness.OUTPUT_TYPE != "generate_until":
            return
        wanted = normalize_gen_kwargs(self.harness.config.generation_kwargs or {})["max_gen_toks"]
        if wanted >= context_length:
            raise UserError(
                f"--task {self.name}: decodes up to {wanted} tokens after the prompt, but the model has only "
                f"{context_length} positions; evaluate a model with more"
            )

    def training_pairs(self) -> Sequence[TextPair]:
        """Return the training documents, each worded like a prompt of the evaluation when it is read; without few-shot
        examples.

        Raises :class:`UserError` for a task without prompts, and for one without a training split of its own.
        """
        if self.scores_texts:
            raise UserError(f"--task {self.name}: scores complete texts and has no prompts to finetune on; evaluate it")
        config = self.harness.config
        evaluated = config.test_split or config.validation_split
        if config.training_split in (None, evaluated):
            problem = "has no training split" if config.training_split is None else f"trains on '{evaluated}' too"
            raise UserError(
                f"--task {self.name}: its definition {problem}; give --halve-evaluation to finetune on half of"
                f" '{evaluated}', or add training_split to a definition of your own"
            )
        return _TrainingPairs(self, self.harness.training_docs())

    def pair(self, document: dict[str, Any]) -> TextPair:
        """Return ``document`` as text for finetuning: the prompt and the answer of the harness's request."""
        harness = self.harness
        with harness_errors(f"--task {self.name}"):
            context = harness.fewshot_context(
                doc=document,
                num_fewshot=0,
                system_instruction=self.system_instruction,
                apply_chat_template=self.chat is not None,
                chat_template=self.chat,
                gen_prefix=harness.doc_to_prefix(document),
            )
            target = self.target(document)
            if isinstance(context, list):  # one prompt for each choice, and a common end
                context, target = context[harness.doc_to_text(document)], str(harness.doc_to_target(document))
        target = self._delimiter() + target
        if harness.OUTPUT_TYPE in _SCORED:  # the harness moves white space at the end of the prompt into the answer
            length = len(context.rstrip())
            context, target = context[:length], context[length:] + target
        return TextPair(context, target, document.get(HINTS))

    def _delimiter(self) -> str:
        """Return the text between prompt and answer, as the harness puts it."""
        config, prefix = self.harness.config, self.harness.config.gen_prefix
        if self.harness.OUTPUT_TYPE == "loglikelihood":
            return ""
        if self.chat is not None and (not prefix or prefix[-1].isspace()):
            return ""  # an answer starts its turn
        return str(config.target_delimiter)

    def target(self, document: dict[str, Any]) -> str:
        """Return the text that answers ``document``: the correct choice, or the first of several answers."""
        if self.harness.multiple_input:
            return str(self.harness.doc_to_choice(document)[self.harness.doc_to_text(document)])
        target = self.harness.doc_to_target(document)
        first = target[0] if isinstance(target, list) else target
        if self.has_choices and isinstance(first, int):
            return str(self.harness.doc_to_choice(document)[first])
        return str(first)


@dataclass(frozen=True)
class _TrainingPairs(Sequence[TextPair]):
    task: Task
    documents: datasets.Dataset

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> TextPair:  # type: ignore[override]  # without slices
        return self.task.pair(self.documents[index])


def load_task(
    task: str,
    data_folder: Path | None,
    *,
    include_path: Path | None = None,
    halve: bool = False,
    num_fewshot: int | None = 0,
    check_hints: HintCheck | None = None,
) -> Task:
    """Load the definition of ``task``, with its data from ``data_folder`` if one is given.

    With ``halve``, and for every task of this project without a training split, the training split is half of the
    evaluation split. ``num_fewshot`` is the number of solved examples before each prompt of the evaluation; None: that
    of the definition. With ``check_hints``, every local training record must have hints that pass it; otherwise hints
    are ignored.

    Raises :class:`UserError` for an unknown task, a definition that cannot be used, data that cannot be loaded, a
    missing folder or split file, an invalid record, and too few examples.
    """
    found = find_definition(task, include_path)
    flag = f"--task {task}"
    with harness_errors(flag):
        keys = load_yaml(found.path)
    _refuse_unsupported(keys, flag)
    for structural in ("tag", "group", "task_list"):
        keys.pop(structural, None)
    metadata = keys.get("metadata") if isinstance(keys.get("metadata"), dict) else {}
    keys["task"], keys["metadata"] = found.name, metadata
    if keys.get("process_docs"):
        keys["process_docs"] = cache(keys["process_docs"])  # the harness calls it several times per split
    evaluated = keys.get("test_split") or keys.get("validation_split")
    if not evaluated:
        raise UserError(f"{flag}: {found.path} has no test_split and no validation_split; add one")
    halved = halve or bool(metadata.get("halved", False))
    if halved:
        keys["training_split"] = HALF
    hinted = evaluated if halved else keys.get("training_split") or TRAIN
    with harness_errors(flag):
        splits = splits_of(found, keys, data_folder, {hinted: check_hints} if check_hints else {})
    if halved:
        splits = halved_splits(splits, evaluated)
    number = _set_fewshot(keys, found, num_fewshot)
    keys.pop("dataset_kwargs", None)
    keys["custom_dataset"] = lambda **_: splits
    with harness_errors(flag):
        harness = ConfigurableTask(config=keys)
        harness.set_fewshot_seed(_FEWSHOT_SEED)
    _require_examples(harness, number)
    return Task(found.name, harness, halved, found)


@contextmanager
def harness_errors(flag: str, *, only_of_tasks: bool = False) -> Iterator[None]:
    """Turn what the harness, or a function of the definition, raises into a :class:`UserError`.

    With ``only_of_tasks``, errors that no method of a task has raised stay as they are, such as those of a model.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        called = {frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)}
        if only_of_tasks and task_module.__file__ not in called:
            raise
        if refused := system_error(error):
            raise refused from error
        raise UserError(
            f"{flag}: the harness cannot use its definition with these data ({type(error).__name__}:"
            f" {one_line(error)}); correct the definition or the records"
        ) from error


def _refuse_unsupported(keys: dict[str, Any], flag: str) -> None:
    if keys.get("doc_to_image") or keys.get("doc_to_audio"):
        raise UserError(f"{flag}: has images or sound, which models of text do not read; give another task")
    if keys.get("unsafe_code"):
        raise UserError(
            f"{flag}: runs the code that a model writes (unsafe_code); evaluate it with 'pause-megatron lm-eval' and"
            " --confirm_run_unsafe_code"
        )


def _set_fewshot(keys: dict[str, Any], found: Definition, number: int | None) -> int:
    """Set and return the number of examples. Without any, the harness does not read the split to draw them from."""
    own = keys.get("num_fewshot")
    if number and own == 0 and found.source != "shipped":
        raise UserError(
            f"--num-fewshot {number}: the definition of {found.name} has num_fewshot: 0, which the harness never"
            " changes; remove the flag, or the key from a definition of your own"
        )
    keys["num_fewshot"] = number = int(own or 0) if number is None else number
    if not number:
        keys.pop("fewshot_split", None)
        keys["fewshot_config"] = {"samples": []}
    elif keys.get("fewshot_config") == {"samples": []}:
        del keys["fewshot_config"]
    return number


def _require_examples(harness: ConfigurableTask, number: int) -> None:
    if not number:
        return
    sampler, config = getattr(harness, "sampler", None), harness.config
    available = len(sampler.df) if sampler else 0
    if harness.fewshot_cfg.split == config.test_split:  # the example that is asked for is left out
        available -= 1
    if number > available:
        raise UserError(
            f"--num-fewshot {number}: {config.task} has only {max(0, available)} examples to show; give fewer, or more"
            " training records"
        )
