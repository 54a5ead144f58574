"""tieredImageNet: 608 classes of ImageNet, 779,165 images of 84 x 84 pixels, decoded as they are drawn.

Ren et al. 2018, https://arxiv.org/abs/1803.00676. 351 classes for training, 97 for validation, 160
for the test, split by categories high in WordNet.

The published pickles hold 13 GB of PNG files; decoded they would fill 16 GB of memory. They are
therefore copied once, one image at a time, into the folders ``tiered-imagenet-{train,val,test}.cache``
beside them, each image is decoded when it is asked for, and the pickles and the archive may be deleted.

Classes are their own groups: the categories in the pickles cannot be used, since the code that wrote them
counted the categories met so far in place of each class's own.
"""

import tempfile
from pathlib import Path

import numpy as np

from .archives import SHORT, Layout, PublicSet, publish
from .cache import DAMAGES, read_arrays
from .cifar import count_labels
from .classes import PARTS, ImageClasses, Splits
from .lazy import EncodedImages
from .pickles import as_named, load_pickle

_PNG = b"\x89PNG\r\n\x1a\n"
_CACHES = Layout(
    holds=tuple(f"tiered-imagenet-{split}.cache/" for split in SHORT),
    source="what an earlier run made of the pickles",
)
_PICKLES = Layout(
    holds=tuple(f"{split}_{what}.pkl" for split in SHORT for what in ("images_png", "labels")),
    source="the link of https://github.com/renmengye/few-shot-ssl-public (Google Drive, 12.9 GB)",
    # Not checked by an MD5: the file behind the link has changed, so several are right.
    archive="tiered-imagenet.tar",
)


def _read(operation: str, found: dict[Layout, Path], side: int) -> Splits:
    [(_, folder)] = found.items()
    caches = [folder / name for name in _CACHES.holds]
    for split, part, cache in zip(SHORT, PARTS, caches, strict=True):
        if not cache.is_dir():
            _build_cache(operation, folder, split, part, cache)
    return Splits(*(_read_cache(operation, cache, side) for cache in caches))


def _build_cache(operation: str, folder: Path, split: str, part: str, cache: Path) -> None:
    """Sort out one split's pickles into ``images.bin`` and ``index.npz``, and then name it ``cache``."""
    path = folder / f"{split}_labels.pkl"
    content = load_pickle(operation, path)
    with as_named(operation, path):
        names = np.array(content["label_specific_str"], np.str_)
        labels = np.asarray(content["label_specific"], np.int64)
        counts = count_labels(labels, len(names))
    TIERED_IMAGENET.check(part, len(counts), len(labels), path)
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
        TIERED_IMAGENET.check(part, len(counts), len(sizes), folder / f"{split}_images_png.pkl")
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


def _read_cache(operation: str, cache: Path, side: int) -> ImageClasses:
    try:
        index = read_arrays(cache / "index.npz")
        names = tuple(index["names"].tolist())
        images = EncodedImages(cache / "images.bin", index["starts"], index["sizes"], side)
        return ImageClasses(images, index["offsets"], names, alphabets=names)
    except (*DAMAGES, OSError) as error:
        raise ValueError(
            f"{operation}: cannot read {str(cache)!r} ({type(error).__name__}: {error}); delete this "
            "folder, and it is made again from the pickles"
        ) from error


TIERED_IMAGENET = PublicSet(
    operation="load_tiered_imagenet",
    side=84,
    layouts=(_CACHES, _PICKLES),
    classes=(351, 97, 160),
    images=(448_695, 124_261, 206_209),
    read=_read,
)
