"""What the public data sets have in common: found in one of several forms, read, checked and scaled."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .archives import Layout, locate
from .classes import PARTS, Splits
from .images import resized, side

SHORT = ("train", "val", "test")  # what the splits are called in most files


@dataclass(frozen=True)
class PublicSet:
    """A data set as others publish it."""

    operation: str  # who speaks in the messages: "load_" and a name
    side: int  # of its images, in pixels
    layouts: tuple[Layout, ...]  # the forms in which it circulates, the preferred one first
    classes: tuple[int, int, int]  # how many a complete copy has in train, validation and test
    images: tuple[int, int, int]  # likewise
    # (operation, the folders of the layouts that were found, side); other sides are scaled afterwards.
    read: Callable[[str, dict[Layout, Path], int], Splits]
    together: bool = False  # whether the files of all layouts are needed, not those of one

    def load(
        self, root: str | os.PathLike[str], *, download: bool = False, image_size: int | None = None
    ) -> Splits:
        """The splits, of (I, C, S, S) uint8 images, from files in ``root`` or at most two folders below.

        Parameters
        ----------
        download : fetch what is not there, where it has a stable address; else the message says so.
        image_size : S; None for the usual side. Pillow scales to others bilinearly.

        Raises
        ------
        FileNotFoundError : if the data set is not there and not to be downloaded.
        ValueError : if a file is damaged, classes or images are missing, or the size is below 1.
        OSError : if a download fails, or what is unpacked or sorted out cannot be written.
        """
        size = side(self.operation, image_size, self.side)
        choices = [(layout,) for layout in self.layouts] if self.together else [self.layouts]
        found = dict(locate(self.operation, root, choice, download=download) for choice in choices)
        splits = self.read(self.operation, found, size)
        for part, classes in zip(PARTS, splits, strict=True):
            place = os.path.commonpath([*found.values()])
            self.check(part, len(classes.names), classes.images.shape[0], place)
        return Splits(*(resized(classes, size) for classes in splits))

    def check(self, part: str, classes: int, images: int, source: str | os.PathLike[str]) -> None:
        """Raise ValueError if a split has more or fewer classes or images than published."""
        expected = dict(zip(PARTS, zip(self.classes, self.images, strict=True), strict=True))[part]
        if (classes, images) != expected:
            raise ValueError(
                f"{self.operation}: the {part} split in {os.fspath(source)!r} must have {expected[0]} "
                f"classes and {expected[1]} images, got {classes} and {images}; the copy is incomplete or "
                "of another data set: delete it and fetch it again"
            )
