"""Shell completion: one script for bash and zsh that completes commands, flags and the words a flag allows."""

from pause_megatron.cli.commands import COMMANDS, SUBCOMMANDS, TOOLS
from pause_megatron.cli.flags import flag_parser

_SCRIPT = """\
# Completion of pause-megatron for {shell}. Load it with: source <(pause-megatron completion {shell})
_pause_megatron() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
  local command="${{COMP_WORDS[0]##*/}}" words=""
  if [[ $command == pause-megatron ]]; then command="${{COMP_WORDS[1]}}"; fi
  if [[ $command == check && $COMP_CWORD -gt 2 ]]; then command="${{COMP_WORDS[2]}}"; fi
  # bash splits --schedule=cosine at the equals sign
  if [[ $word == "=" ]]; then word=""; elif [[ $previous == "=" ]]; then previous="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  if [[ ${{COMP_WORDS[0]}} == *pause-megatron && $COMP_CWORD -eq 1 ]]; then
    words="{commands}"
  elif [[ $word == -* ]]; then
    case "$command" in
{flags}
    esac
  else
    case "$command $previous" in
      "help help"|"check check") words="{names}" ;;
      "completion completion") words="bash zsh" ;;
{choices}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _pause_megatron pause-megatron {tools}
"""
"""Empty ``words`` leave the completion to the shell, which then offers file names."""


def completion_script(shell: str) -> str:
    """The script that ``pause-megatron completion SHELL`` prints; ``shell`` is bash or zsh."""
    options = {name: flag_parser(command.config_class(), name).options for name, command in COMMANDS.items()}
    choices = [
        f'      "{name} {option}") words="{" ".join(filter(None, words))}" ;;'
        for name, allowed in options.items()
        for option, words in allowed.items()
        if words
    ]
    script = _SCRIPT.format(
        shell=shell,
        commands=" ".join([*SUBCOMMANDS, "lm-eval", "check", "completion", "help"]),
        names=" ".join(COMMANDS),
        flags="\n".join(f'      {name}) words="{" ".join(allowed)}" ;;' for name, allowed in options.items()),
        choices="\n".join(choices),
        tools=" ".join(TOOLS),
    )
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script
