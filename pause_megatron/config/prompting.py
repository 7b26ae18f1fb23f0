"""Wording of the prompts of an evaluation, with the flags of lm-evaluation-harness."""

from dataclasses import dataclass

from pause_megatron.config.checks import require_at_least
from pause_megatron.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """Few-shot examples, chat template and generation, with the flags and the defaults of lm-evaluation-harness."""

    num_fewshot: int | None = None
    """Solved examples before each prompt (default: that of the definition; 0 for a model that was finetuned on this
    task, because finetuning has none)."""
    apply_chat_template: bool | None = None
    """Word the prompts with the chat template of the model's tokenizer (default: as in finetuning on this task, else
    off)."""
    fewshot_as_multiturn: bool | None = None
    """Show few-shot examples as earlier turns of the chat (default: on with --apply-chat-template)."""
    system_instruction: str | None = None
    """Text before everything else, with a chat template the system's message (default: as in finetuning on this task,
    else none)."""
    gen_kwargs: tuple[str, ...] = ()
    """Generation settings of decoded tasks, which override those of the definition, for example max_gen_toks=64
    do_sample=True temperature=0.7."""

    def __post_init__(self) -> None:
        require_at_least(0, num_fewshot=self.num_fewshot or 0)
        if self.fewshot_as_multiturn and self.apply_chat_template is False:
            raise UserError("--fewshot-as-multiturn: turns need a chat template; give --apply-chat-template too")
        for setting in self.gen_kwargs:
            if "=" not in setting and not setting.lstrip().startswith("{"):
                raise UserError(f"--gen-kwargs {setting}: is not NAME=VALUE; write it like max_gen_toks=64")
