"""Command lines that start from a preset: reading them, and writing the one that starts a run."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import NoReturn, TypeVar

import tyro

from .freed_memory import keep_freed_memory
from .settings import RunSettings, flag

S = TypeVar("S", bound=RunSettings)


def run_program(
    main: Callable[[S], int],
    module: str,
    presets: Mapping[str, S],
    descriptions: Mapping[str, str],
    usual: S,
) -> NoReturn:
    """Read the settings from the command line, run, and leave with the exit status.

    Errors that the user can do something about are shown without a traceback.

    Parameters
    ----------
    main : settings -> exit status.
    module : the program's name, as ``python -m`` takes it.
    presets : settings by name.
    descriptions : of the presets, a few words each.
    usual : the settings that are changed if no preset is named.
    """
    arguments = sys.argv[1:]
    keep_freed_memory()
    try:
        settings = tyro.cli(
            type(usual),
            prog=f"python -m {module}",
            description=f"{usual.__doc__}\n\nPresets:\n\n{list_presets(descriptions)}",
            default=choose(presets, preset_of(arguments), usual),
            args=arguments,
        )
        sys.exit(main(settings))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{error}")


def preset_of(arguments: list[str]) -> str | None:
    """The preset that a command line names, if it does."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=None)
    parser.add_argument("--preset", nargs="?")
    preset: str | None = parser.parse_known_args(arguments)[0].preset
    return preset


def choose(presets: Mapping[str, S], preset: str | None, usual: S) -> S:
    """The settings that a command line starts from.

    Raises
    ------
    ValueError : if there is no such preset.
    """
    if preset is None:
        return usual
    if preset not in presets:
        raise ValueError(f"train: --preset must be one of {', '.join(presets)}; got {preset!r}")
    return presets[preset]


def list_presets(descriptions: Mapping[str, str]) -> str:
    """All presets, a line each."""
    width = max(map(len, descriptions))
    return "\n".join(f"- {name:{width}}  {what}" for name, what in descriptions.items())


def command_for(module: str, settings: S, start: S) -> str:
    """The shell command that starts a run with these settings.

    Parameters
    ----------
    module : the program's name, as ``python -m`` takes it.
    settings : of the run.
    start : what the command line starts from, those of its preset or the usual ones.
    """
    words = ["python", "-m", module]
    if settings.preset is not None:
        words += ["--preset", settings.preset]
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name == "preset" or value == getattr(start, f.name):
            continue
        if isinstance(value, bool):
            words.append(flag(f.name if value else f"no_{f.name}"))
        elif isinstance(value, tuple):
            words += [flag(f.name), *map(str, value)]
        else:
            words += [flag(f.name), str(value)]
    return shlex.join(words)
