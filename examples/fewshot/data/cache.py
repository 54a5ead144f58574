"""Classes that take a while to make are made once: the files in the user's cache folder.

A file's name holds a hash of everything its contents depend on, so no file is ever out of date; one
that is absent or damaged is made again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pooch

from .classes import ImageClasses


def cached_classes(
    name: str,
    depends_on: tuple[object, ...],
    make: Callable[[], ImageClasses],
    cache: str | os.PathLike[str] | None = None,
) -> ImageClasses:
    """What ``make()`` returns, read from the file that an earlier call wrote if there is one.

    Parameters
    ----------
    name : of the data set; the file is ``<name>-<hash>.npz``, the error is of ``load_<name>``.
    depends_on : everything that decides what is made; hashed by its repr.
    make : makes the classes. Their normalisation and channels are not kept.
    cache : folder of the file; by default ``$SRWM_CACHE``, else ``srwm`` in the user's cache folder, on
        Linux ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises
    ------
    OSError : if the file cannot be written.
    """
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]
    folder = Path(cache or os.environ.get("SRWM_CACHE") or pooch.os_cache("srwm"))
    path = folder / f"{name}-{digest}.npz"
    classes = _read(path)
    if classes is None:
        classes = make()
        _write(name, path, classes)
    return classes


def _read(path: Path) -> ImageClasses | None:
    """The cached classes, or None if the file is absent or damaged."""
    try:
        # Opened here, because np.load leaves the file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return ImageClasses(
                images=stored["images"],
                offsets=stored["offsets"],
                names=tuple(stored["names"].tolist()),
                alphabets=tuple(stored["alphabets"].tolist()),
            )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
        return None  # cut short or overwritten: np.load and ImageClasses say so in these ways


def _write(name: str, path: Path, classes: ImageClasses) -> None:
    """Write beside the target, then rename: a reader never sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=".part") as partial:
            finished = Path(partial, path.name)
            np.savez_compressed(
                finished,
                images=classes.images[np.arange(classes.images.shape[0])],
                offsets=classes.offsets,
                names=np.array(classes.names),
                alphabets=np.array(classes.alphabets),
            )
            finished.replace(path)
    except OSError as error:
        raise OSError(
            f"load_{name}: cannot write the cache file {path} ({error}); choose another folder "
            "with the argument cache or the environment variable SRWM_CACHE"
        ) from error
