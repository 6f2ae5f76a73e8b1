"""``cliploom completion``: prints a script with which a shell completes commands, options and files."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from cliploom.pipelines.cli.app import app

# The words are part of the script, so that completion does not start Python.
_BASH = """\
# cliploom completion for bash; put `eval "$(cliploom completion bash)"` into ~/.bashrc
_cliploom() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands} --help --version"
  elif [ "${{word:0:1}}" = "-" ]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o bashdefault -o default -F _cliploom cliploom
"""
_ZSH = """\
#compdef cliploom
# cliploom completion for zsh; put `eval "$(cliploom completion zsh)"` into ~/.zshrc, after compinit
_cliploom() {{
  local -a commands
  if (( CURRENT == 2 )); then
    commands=({described})
    _describe command commands
    return
  fi
  if [[ "$PREFIX" == -* ]]; then
    case "$words[2]" in
{cases}
    esac
  fi
  _files
}}
compdef _cliploom cliploom
"""


class Shell(StrEnum):
    """Supported shells."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command()
def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell to complete in.", show_default=False)],
) -> None:
    """Print a script for completions in a shell.

    For bash: eval "$(cliploom completion bash)"
    """
    from cliploom.pipelines.console import show

    show(completion_script(shell).rstrip())


def completion_script(shell: Shell) -> str:
    """Return the script for a shell to evaluate.

    Args:
        shell: the shell.
    """
    found: Any = typer.main.get_command(app)
    commands: dict[str, Any] = dict(sorted(found.commands.items()))
    options = {name: _options(command) for name, command in commands.items()}
    helps = {name: command.get_short_help_str(70) for name, command in commands.items()}
    if shell is Shell.FISH:
        return _fish(options, helps)
    if shell is Shell.BASH:
        cases = "\n".join(f'      {name}) words="{" ".join(found)}" ;;' for name, found in options.items())
        return _BASH.format(commands=" ".join(commands), cases=cases)
    described = " ".join(_quoted(f"{name}:{helps[name]}") for name in commands)
    cases = "\n".join(f"      {name}) compadd -- {' '.join(found)}; return ;;" for name, found in options.items())
    return _ZSH.format(described=described, cases=cases)


def _fish(options: Mapping[str, list[str]], helps: Mapping[str, str]) -> str:
    lines = ["# cliploom completion for fish; put `cliploom completion fish | source` into config.fish"]
    for name, found in options.items():
        lines.append(f"complete -c cliploom -n __fish_use_subcommand -f -a {name} -d {_quoted(helps[name])}")
        inside = f"'__fish_seen_subcommand_from {name}'"
        lines += [
            f"complete -c cliploom -n {inside} -l {option.removeprefix('--')}"
            for option in found
            if option.startswith("--")
        ]
    return "\n".join(lines) + "\n"


def _options(command: Any) -> list[str]:
    named = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    return sorted({*named, "--help"})


def _quoted(text: str) -> str:
    """Quote a string as one word for any of the shells."""
    return "'" + text.replace("'", "") + "'"
