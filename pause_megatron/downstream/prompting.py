"""Wording of the prompts of an evaluation, with every setting decided: examples, chat template and generation."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from lm_eval._cli.utils import key_val_to_dict
from lm_eval.models.huggingface import HFLM

from pause_megatron.config.downstream import FinetuneConfig
from pause_megatron.config.prompting import Prompting
from pause_megatron.downstream.model_folder import ModelFolder
from pause_megatron.downstream.tasks import Task
from pause_megatron.errors import UserError, one_line
from pause_megatron.records.evaluation import PromptingRecord


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Wording of the prompts of one evaluation, with every setting decided."""

    num_fewshot: int = 0
    chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_instruction: str | None = None
    gen_kwargs: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the harness's ``evaluate``."""
        return {
            "apply_chat_template": self.chat_template,
            "fewshot_as_multiturn": self.fewshot_as_multiturn,
            "system_instruction": self.system_instruction,
        }

    def record(self) -> PromptingRecord | None:
        """Return the settings for the result file; None if all are the defaults."""
        if self == Wording():
            return None
        return PromptingRecord(
            num_fewshot=self.num_fewshot,
            chat_template=self.chat_template,
            fewshot_as_multiturn=self.fewshot_as_multiturn,
            system_instruction=self.system_instruction,
            gen_kwargs=self.gen_kwargs,
        )


def finetuned_task(folder: ModelFolder, task: Task, config: FinetuneConfig) -> Task:
    """Return ``task`` with the wording of prompts that ``config`` asks for.

    Raises :class:`UserError` if the model in ``folder`` has no usable chat template and one is wanted.
    """
    if config.apply_chat_template:
        require_chat_template(folder)
    chat = chat_template_of(folder) if config.apply_chat_template else None
    return replace(task, system_instruction=config.system_instruction, chat=chat)


def chat_template_of(folder: ModelFolder) -> Callable[..., str]:
    """Return the function that words a chat with the template of the model's tokenizer, as the harness words it."""
    model = SimpleNamespace(tokenizer=folder.tokenizer, chat_template_args={})
    return partial(HFLM.apply_chat_template, model)


def asked_fewshot(folder: ModelFolder, task: str, asked: Prompting) -> int | None:
    """Return the number of examples for the task of this name; None: that of its definition.

    A model that was finetuned on the task gets none by default, as in its finetuning.
    """
    finetuned_here = folder.finetuning is not None and folder.finetuning.task == task
    return 0 if asked.num_fewshot is None and finetuned_here else asked.num_fewshot


def decided_wording(folder: ModelFolder, task: Task, asked: Prompting) -> Wording:
    """Return the wording of the prompts of ``task`` for the model in ``folder``, and set its generation settings.

    Raises :class:`UserError` for a model without a chat template, or with one that pauses by itself, for generation
    settings of a task that is not decoded, and for flags without effect.
    """
    if task.scores_texts:
        refuse_prompting(task.name, asked)
        return Wording()
    config = folder.finetuning.config if folder.finetuning and folder.finetuning.task == task.name else {}
    chat = asked.apply_chat_template
    chat = bool(config.get("apply_chat_template", False) if chat is None else chat)
    system = config.get("system_instruction") if asked.system_instruction is None else asked.system_instruction
    number = task.harness.config.num_fewshot or 0
    if chat:
        require_chat_template(folder)
    if asked.fewshot_as_multiturn and not (chat and number):
        need = "--num-fewshot" if chat else "--apply-chat-template"
        raise UserError(f"--fewshot-as-multiturn: has no effect without {need}; give it too")
    turns = chat if asked.fewshot_as_multiturn is None else asked.fewshot_as_multiturn
    return Wording(
        num_fewshot=number,
        chat_template=chat,
        fewshot_as_multiturn=bool(turns and number),
        system_instruction=system or None,
        gen_kwargs=_gen_kwargs(task, asked),
    )


def refuse_prompting(task: str, asked: Prompting) -> None:
    """Raise :class:`UserError` for settings of prompts; ``task`` scores complete texts, which have none."""
    given = [name for name, value in vars(asked).items() if value != getattr(Prompting(), name)]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{flag}: {task} scores complete texts, which have no prompts; remove the flag")


def require_chat_template(folder: ModelFolder) -> None:
    """Raise :class:`UserError` if ``folder`` has no chat template, or one that pauses by itself."""
    if not folder.tokenizer.chat_template:
        raise UserError(
            f"--apply-chat-template: {folder.path} has no chat template in its tokenizer_config.json; remove the flag"
        )
    if folder.baked_pauses:
        raise UserError(
            f"--apply-chat-template: the chat template of {folder.path} appends {folder.baked_pauses} pauses by itself;"
            " remove the flag"
        )


def _gen_kwargs(task: Task, asked: Prompting) -> dict[str, Any]:
    """Return the generation settings that are ``asked`` for, as the harness reads them, and set them in ``task``."""
    if not asked.gen_kwargs:
        return {}
    flag = f"--gen-kwargs {' '.join(asked.gen_kwargs)}"
    if task.harness.OUTPUT_TYPE != "generate_until":
        raise UserError(f"{flag}: {task.name} is scored, not decoded; remove the flag")
    found: dict[str, Any] = {}
    for setting in asked.gen_kwargs:
        try:
            found |= dict(json.loads(setting)) if setting.lstrip().startswith("{") else key_val_to_dict(setting)
        except (ValueError, TypeError) as error:
            raise UserError(f"{flag}: {one_line(error)}; write it like max_gen_toks=64") from error
    task.harness.set_config("generation_kwargs", found, update=True)
    return found
