"""tieredImageNet: 608 classes of ImageNet, 779,165 images of 84 x 84 pixels, decoded as they are drawn.

Ren et al. 2018, https://arxiv.org/abs/1803.00676. 351 classes for training, 97 for validation, 160
for the test, split by categories high in WordNet.

The published pickles hold 13 GB of PNG files; decoded they would fill 16 GB of memory. They are
therefore copied once, as they are, into one file per split that is mapped into memory, and each
image is decoded when it is asked for.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .archives import Contents, Layout, find, locate, publish
from .cifar import count_labels
from .classes import PARTS, ImageClasses, Splits
from .images import side
from .lazy import EncodedImages
from .pickles import as_named, load_pickle

_SPLITS = ("train", "val", "test")
_SIZE = 84
_PNG = b"\x89PNG\r\n\x1a\n"
CACHES = tuple(f"tiered-imagenet-{split}.cache/" for split in _SPLITS)
PICKLES = Layout(
    holds=tuple(f"{split}_{what}.pkl" for split in _SPLITS for what in ("images_png", "labels")),
    source="the link of https://github.com/renmengye/few-shot-ssl-public (Google Drive, 12.9 GB)",
    # Not checked by an MD5: the file behind the link has changed, so several are right.
    archive="tiered-imagenet.tar",
)
LAYOUTS = (PICKLES,)
CONTENTS = Contents(classes=(351, 97, 160), images=(448_695, 124_261, 206_209))


def load_tiered_imagenet(
    root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
) -> Splits:
    """tieredImageNet from its published pickles, or from the caches made of them.

    The first call reads the pickles, one image at a time, and writes beside them the folders
    ``tiered-imagenet-{train,val,test}.cache``, 13 GB together. Later calls need only these: the
    pickles and the archive may then be deleted.

    Parameters
    ----------
    root : folder that has, in it or at most two folders below it, the caches; or the pickles
        ``{train,val,test}_images_png.pkl`` and ``{train,val,test}_labels.pkl``; or
        ``tiered-imagenet.tar``.
    download : has no effect but on the message if nothing is found: no stable address exists.
    image_size : S; 84 by default, the stored size. Pillow scales to others bilinearly.

    Returns
    -------
    Splits whose images are `EncodedImages` of shape (I, 3, S, S). Classes are their own groups: the
    categories in the pickles cannot be used, since the code that wrote them counted the categories
    met so far in place of each class's own.

    Errors are those of `load_omniglot`; OSError also if the caches cannot be written.
    """
    operation = "load_tiered_imagenet"
    size = side(operation, image_size, _SIZE)
    folder = find(Path(root), CACHES)
    if folder is None:
        _, folder = locate(operation, root, LAYOUTS, download=download)
        for split, part, cache in zip(_SPLITS, PARTS, CACHES, strict=True):
            if not (folder / cache).is_dir():
                _build_cache(operation, folder, split, part, folder / cache)
    splits = Splits(*(_read_cache(operation, folder / cache, size) for cache in CACHES))
    CONTENTS.check(operation, splits, folder)
    return splits


def _build_cache(operation: str, folder: Path, split: str, part: str, cache: Path) -> None:
    """Sort out one split's pickles into ``images.bin`` and ``index.npz``, and then name it ``cache``."""
    path = folder / f"{split}_labels.pkl"
    content = load_pickle(operation, path)
    with as_named(operation, path):
        names = np.array(content["label_specific_str"], np.str_)
        labels = np.asarray(content["label_specific"], np.int64)
        counts = count_labels(labels, len(names))
    CONTENTS.check_split(operation, part, len(counts), len(labels), path)
    sizes: list[int] = []
    with tempfile.TemporaryDirectory(dir=folder, suffix=".part") as partial:
        finished = Path(partial, "cache")
        finished.mkdir()
        with (finished / "images.bin").open("wb") as images:

            def keep(image: bytes) -> None:
                if not image.startswith(_PNG):
                    raise ValueError(f"image {len(sizes)} is no PNG file")
                images.write(image)
                sizes.append(len(image))

            load_pickle(operation, folder / f"{split}_images_png.pkl", keep)
        CONTENTS.check_split(operation, part, len(counts), len(sizes), folder / f"{split}_images_png.pkl")
        order = np.argsort(labels, kind="stable")
        starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        np.savez(
            finished / "index.npz",
            starts=starts[order],
            sizes=np.asarray(sizes, np.int64)[order],
            offsets=np.cumsum([0, *counts], dtype=np.int64),
            names=names,
        )
        publish(finished, cache)


def _read_cache(operation: str, cache: Path, image_size: int) -> ImageClasses:
    try:
        # Opened here, because np.load leaves the file open when it is no archive.
        with (cache / "index.npz").open("rb") as file, np.load(file, allow_pickle=False) as index:
            names = tuple(index["names"].tolist())
            images = EncodedImages(cache / "images.bin", index["starts"], index["sizes"], image_size)
            return ImageClasses(images=images, offsets=index["offsets"], names=names, alphabets=names)
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{operation}: cannot read {str(cache)!r} ({type(error).__name__}: {error}); delete this "
            "folder, and it is made again from the pickles"
        ) from error
