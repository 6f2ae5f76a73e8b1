"""Turns usage errors into sentences with the given and the existing names."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import typer

from cliploom.schemas.errors import SpecError, nearest, short


def usage_error(error: typer.TyperException, arguments: Sequence[str]) -> SpecError:
    """Return the error to show to users.

    Args:
        error: the error of the command line's parser; its kinds are distinguished by their attributes.
        arguments: arguments of the program.
    """
    context: Any = getattr(error, "ctx", None)
    command = context.command if context is not None else None
    see = f"see `{context.command_path} --help`" if context is not None else "see `cliploom --help`"
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    message = error.message.rstrip(".")
    if option is not None and message.startswith("No such option"):
        named = [name for each in (command.params if command is not None else ()) for name in each.opts]
        known = [name for name in named if name.startswith("-")]  # the others are arguments
        return SpecError(f"There is no option {option}{nearest(option, [*known, '--help'])}")
    if message.startswith("No such command"):
        wrong = message.split("'")[1]
        return SpecError(f"There is no command {wrong!r}{nearest(wrong, command.commands if command else ())}")
    if message.startswith("Got unexpected extra argument"):
        surplus = message.rpartition("(")[2].rstrip(")")
        return SpecError(f"{surplus!r} is one argument too many; {see}.")
    if parameter is not None and type(error).__name__ == "MissingParameter":
        option_name = next((name for name in parameter.opts if name.startswith("-")), None)
        missing = f"option {option_name}" if option_name else f"argument {parameter.name.upper()}"
        return SpecError(f"The {missing} is missing; {see}.")
    if parameter is not None:
        said = message.split(",")[0]
        name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
        value = short(_given(parameter.opts, arguments))
        return SpecError(f"{name}: {value} is wrong: {said[:1].lower()}{said[1:]}; {see}.")
    return SpecError(f"{message}; {see}.")


def _given(names: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the value given for an option, else the last positional argument."""
    for name in names:
        for argument in arguments:
            if argument.startswith(f"{name}="):
                return argument.partition("=")[2]
        with contextlib.suppress(ValueError, IndexError):
            return arguments[arguments.index(name) + 1]
    return next((argument for argument in reversed(arguments) if not argument.startswith("-")), "")
