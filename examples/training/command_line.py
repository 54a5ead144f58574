"""Command lines that start from a preset or from a resumed run: reading them, and writing one."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_type_hints

import tyro

from .divergence import DIVERGED, DivergenceError
from .files import read_json
from .freed_memory import keep_freed_memory
from .run_folder import RunFolder
from .settings import RunSettings, flag

S = TypeVar("S", bound=RunSettings)
Options = TypeVar("Options")


def run_program(
    main: Callable[[S], int],
    presets: Mapping[str, S],
    descriptions: Mapping[str, str],
    usual: S,
    smoke: Callable[[S], S],
) -> NoReturn:
    """Read the settings from the command line, run, and leave with the exit status.

    Errors that the user can do something about are shown without a traceback. The usual settings are those
    that are changed if no preset is named; `smoke` is what ``--smoke`` makes of settings.
    """
    keep_freed_memory()
    try:
        settings = read_settings(sys.argv[1:], presets, descriptions, usual)
        if settings.smoke:
            name = f"{settings.name}-smoke"
            settings = smoke(replace(settings, name=name, smoke=False, overwrite=not settings.resume))
        sys.exit(main(settings))
    except DivergenceError as error:
        print(error, file=sys.stderr)
        sys.exit(DIVERGED)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{error}")


def run_with_options(
    main: Callable[[Options], object], module: str, options: type[Options], about: str | None = None
) -> NoReturn:
    """The same for a program without presets; the exit status is 0 unless ``main`` returns one. Help says
    what it is about, or else what the options' docstring says.
    """
    given = tyro.cli(options, prog=f"python -m {module}", description=about)
    keep_freed_memory()
    try:
        status = main(given)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{error}")
    sys.exit(status if isinstance(status, int) else 0)


def read_settings(
    arguments: Sequence[str], presets: Mapping[str, S], descriptions: Mapping[str, str], usual: S
) -> S:
    """What a command line asks for; ``--help`` shows the essential settings, ``--help-all`` every one."""
    start = start_of(arguments, presets, usual)
    listed = list_presets(descriptions)
    config: tuple[Any, ...] = ()
    if "--help-all" in arguments:
        arguments = ["--help"]
    elif {"-h", "--help"}.intersection(arguments):
        listed = f"{', '.join(descriptions)}\n\n--help-all says more of them, and shows all settings."
        start, config = _with_essentials_alone(start), (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(
        type(start),
        prog=f"python -m {usual.program}",
        description=f"{usual.__doc__}\n\nPresets:\n\n{listed}",
        default=start,
        args=arguments,
        config=config,
    )


def _with_essentials_alone(settings: S) -> S:
    """The same, of a type whose help hides all other settings; nothing can be read into it."""
    kind = type(settings)
    hints = get_type_hints(kind)
    hidden = [
        (f.name, Annotated[hints[f.name], tyro.conf.Suppress], field(default=f.default))
        for f in fields(settings)
        if f.name not in settings.essential
    ]
    brief = make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True)
    shown: S = brief(**{f.name: getattr(settings, f.name) for f in fields(settings)})
    return shown


def start_of(arguments: Sequence[str], presets: Mapping[str, S], usual: S) -> S:
    """What a command line starts from: settings of its preset, of the run it resumes, or the usual ones."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--name", nargs="?", default=usual.name)
    parser.add_argument("--runs", nargs="?", default=usual.runs)
    given, _ = parser.parse_known_args(arguments)
    if given.preset is not None:
        return choose(presets, given.preset)
    if given.resume and given.name and given.runs:
        folder = RunFolder(Path(given.runs) / given.name)
        if folder.config.exists():
            return recorded_start(usual, folder)
    return usual


def recorded_start(usual: S, folder: RunFolder) -> S:
    """What the command line of a resumed run starts from: as it was recorded, but for where it is."""
    recorded = type(usual).from_record(read_json(folder.config))
    return replace(recorded, name=usual.name, runs=usual.runs, resume=False, overwrite=False)


def choose(presets: Mapping[str, S], preset: str) -> S:
    """A preset's settings."""
    if preset in presets:
        return presets[preset]
    alike = difflib.get_close_matches(preset, presets, n=3)
    hint = f"did you mean {' or '.join(alike)}?" if alike else f"there are {', '.join(presets)}"
    raise ValueError(f"train: --preset: there is none called {preset!r}; {hint}")


def list_presets(descriptions: Mapping[str, str]) -> str:
    """All presets, a line each."""
    width = max(map(len, descriptions))
    return "\n".join(f"- {name:{width}}  {what}" for name, what in descriptions.items())


def command_for(settings: S, start: S) -> str:
    """The shell command of a run with these settings, from those of a preset or the usual ones."""
    words = ["python", "-m", settings.program]
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
