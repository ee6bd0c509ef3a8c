"""Completion of the command `dgflow` in bash and zsh.

The script does not run Python, so a completion takes milliseconds instead of the seconds that dgflow takes to
start. It completes commands, options and listed values. Everything else is completed as a file name, which
includes steps in a local root.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.main import get_command

_SCRIPT = """\
# Completion of the command dgflow in bash and zsh, written by `dgflow completion`.
if [ -n "${ZSH_VERSION-}" ]; then
    autoload -U +X compinit && compinit -u
    autoload -U +X bashcompinit && bashcompinit
fi
_dgflow() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""
    case "$COMP_CWORD ${COMP_WORDS[1]} $before $word" in
        "1 "*) words="@commands" ;;
@values
@options
@arguments
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$word") )
}
complete -o default -F _dgflow dgflow
"""


def script(app: typer.Typer) -> str:
    """Generate the script for an application with commands `dgflow COMMAND`."""
    group: Any = get_command(app)
    values, options, arguments = [], [], []
    for name, command in group.commands.items():
        context, names, positions = typer.Context(command), ["--help"], []
        for parameter in command.params:
            choices = [item.value for item in parameter.shell_complete(context, "")]
            if parameter.param_type_name == "argument":
                positions += choices
                continue
            names += [*parameter.opts, *parameter.secondary_opts]
            if not parameter.is_flag:  # options without listed values complete files
                values += [_case(f'[0-9]*" {name} {option} "*', choices) for option in parameter.opts]
        options.append(_case(f'*" {name} "*" -"*', names))
        arguments += [_case(f'*" {name} "*', positions)] if positions else []
    lines = {"values": values, "options": options, "arguments": arguments}
    text = _SCRIPT.replace("@commands", " ".join(group.commands))
    for part, cases in lines.items():
        text = text.replace(f"@{part}", "\n".join(cases))
    return text


def _case(pattern: str, words: list[str]) -> str:
    return f'        {pattern}) words="{" ".join(words)}" ;;'
