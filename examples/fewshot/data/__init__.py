"""The data sets of the few-shot example, by name."""

from __future__ import annotations

import os

from .classes import Splits
from .folder import load_folder
from .glyphs import load_glyphs

__all__ = ["load_splits"]


def load_splits(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Splits:
    """Train, validation and test classes of a data set.

    Parameters
    ----------
    name : "glyphs", letters rendered from matplotlib's fonts; or "folder", images on disk.
    root : for "folder", the folder that holds the alphabets (see `load_folder`).
    cache : for "glyphs", the folder of the cache (see `load_glyphs`).

    Returns
    -------
    Splits of (I, 1, 28, 28) uint8 images, ink = 255 on 0.

    Raises
    ------
    ValueError : if the name is unknown, or an argument is missing or belongs to the other name.

    Examples
    --------
    >>> splits = load_splits("glyphs")
    >>> splits.train.images.shape[1:]
    (1, 28, 28)
    """
    if name == "glyphs":
        if root is not None:
            raise ValueError(
                f"load_splits: name='glyphs' takes no root, got {os.fspath(root)!r}; "
                "use name='folder' to read images from it"
            )
        return load_glyphs(cache)
    if name == "folder":
        if root is None:
            raise ValueError("load_splits: name='folder' needs root, the folder of the alphabets")
        return load_folder(root)
    raise ValueError(f"load_splits: name must be 'glyphs' or 'folder', got {name!r}")
