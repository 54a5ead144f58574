"""Classes that take a while to make are made once: the files in the user's cache folder.

A file's name holds a hash of everything its contents depend on, so no file is ever out of date; one
that is absent or damaged is made again.
"""

import contextlib
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

# What NumPy, and who takes the arrays, raise for a file that is cut short or overwritten.
DAMAGES = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def cached_classes(
    name: str, depends_on: tuple[object, ...], make: Callable[[], ImageClasses]
) -> ImageClasses:
    """What ``make()`` returns, without normalisation and channels; read if an earlier call wrote it.

    The file is ``<name>-<hash>.npz`` in ``$SRWM_CACHE``, else in ``srwm`` in the user's cache folder, on
    Linux ``$XDG_CACHE_HOME`` or ``~/.cache``. ``depends_on`` is everything that decides what is made.
    """
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("SRWM_CACHE") or pooch.os_cache("srwm"))
    path = folder / f"{name}-{digest}.npz"
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, *DAMAGES):
        stored = read_arrays(path)
        names, alphabets = (tuple(stored[key].tolist()) for key in ("names", "alphabets"))
        return ImageClasses(stored["images"], stored["offsets"], names, alphabets)
    classes = make()
    _write(name, path, classes)
    return classes


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file; what is wrong with it raises one of `DAMAGES`."""
    # Opened here, because np.load leaves the file open when it is no archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)


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
            "with the environment variable SRWM_CACHE"
        ) from error
