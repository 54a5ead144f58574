"""Public data sets on disk: find what lies below a folder, fetch and unpack what does not, and check it.

A file that is cut short, altered, or not what its name says is refused before anything of it is used;
no archive writes outside its own folder; and an interruption at any moment, or a second process at work
on the same folder, leaves nothing that looks finished and is not. Archives are therefore unpacked into a
temporary folder whose name ends in ``.part``, which is renamed when it is complete.
"""

import errno
import itertools
import lzma
import os
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch

from .classes import PARTS, Splits
from .images import resized

SHORT = ("train", "val", "test")  # what the splits are called in most files

# What zipfile, tarfile and the decompressors raise on a damaged archive: MemoryError for a length that
# cannot be right, RuntimeError for an encrypted ZIP file or an unknown compression.
_FAILURES: tuple[type[Exception], ...] = (EOFError, MemoryError, OverflowError, RuntimeError, ValueError)
_FAILURES += (OSError, lzma.LZMAError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error)
# The errors of the system that the archive is to blame for: names that a folder cannot have, or not
# together. gzip and bz2 raise None for a wrong checksum.
_OF_NAMES = (None, errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)


@dataclass(frozen=True)
class Layout:
    """One of the ways in which a data set is published."""

    holds: tuple[str, ...]  # names that lie together in one folder; those of folders end in a slash
    source: str  # where people get it, for the message when it is missing
    archive: str | None = None  # the usual name of the archive that holds them, if there is one
    md5: str | None = None  # of the archive, where it is published; checked before it is unpacked
    url: str | None = None  # of the archive, where it has a stable public address; then md5 is given too


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
        self,
        root: str | os.PathLike[str] | None,
        *,
        download: bool = False,
        image_size: int | None = None,
    ) -> Splits:
        """The splits, of (I, C, S, S) uint8 images, from files in ``root`` or at most two folders below.

        With ``download`` what is not there is fetched, where it has a stable address. Images of another
        size than the usual one are scaled bilinearly.
        """
        size = image_size or self.side
        choices = [(layout,) for layout in self.layouts] if self.together else [self.layouts]
        found = dict(locate(self.operation, root, choice, download=download) for choice in choices)
        splits = self.read(self.operation, found, size)
        for part, classes in zip(PARTS, splits, strict=True):
            place = os.path.commonpath([*found.values()])
            self.check(part, len(classes.names), classes.images.shape[0], place)
        return Splits(*(resized(classes, size) for classes in splits))

    def check(self, part: str, classes: int, images: int, source: str | os.PathLike[str]) -> None:
        """Raise ValueError if a split has more or fewer classes or images than published."""
        place = PARTS.index(part)
        expected = self.classes[place], self.images[place]
        if (classes, images) != expected:
            raise ValueError(
                f"{self.operation}: the {part} split in {os.fspath(source)!r} must have {expected[0]} "
                f"classes and {expected[1]} images, got {classes} and {images}; the copy is incomplete or "
                "of another data set: delete it and fetch it again"
            )


def locate(
    operation: str, root: str | os.PathLike[str] | None, layouts: Sequence[Layout], *, download: bool
) -> tuple[Layout, Path]:
    """The first of the layouts that lies below root, unpacked or packed, and the folder that holds it.

    An archive is unpacked beside itself, once. With ``download``, and only if nothing is found,
    the first layout with an address is fetched into root, with a progress bar.
    """
    if root is None or not (download or Path(root).is_dir()):
        raise FileNotFoundError(
            f"{operation}: root (--root; of other tasks --second-root, --third-root) must be an existing "
            f"folder, got {root and str(root)!r}; make it and put there one of\n"
            f"{list_layouts(layouts, download=download)}"
        )
    root = Path(root)
    for layout in layouts:
        if (folder := find(root, layout.holds)) is not None:
            return layout, folder
        if layout.archive is not None and (place := find(root, (layout.archive,))) is not None:
            return layout, unpack(operation, place / layout.archive, layout.holds, layout.md5)
    for layout in layouts if download else ():
        if layout.url is not None:
            return layout, unpack(operation, _fetch(operation, root, layout), layout.holds)
    raise FileNotFoundError(
        f"{operation}: found nothing to read under {str(root)!r}; put there one of\n"
        f"{list_layouts(layouts, download=download)}"
    )


def list_layouts(layouts: Sequence[Layout], *, download: bool) -> str:
    """Which files to put below a root and where people get them, a line each, for messages."""
    lines = []
    for layout in layouts:
        packed = "" if layout.archive is None else f", or {layout.archive}, which holds them"
        lines.append(f"  * {', '.join(layout.holds)}{packed}: {layout.source}")
    has_address = any(layout.url is not None for layout in layouts)
    if has_address and not download:
        lines.append("or add download=True (--download)")
    elif download and not has_address:
        lines.append("there is no stable public address to download it from")
    return "\n".join(lines)


def find(root: Path, names: Sequence[str]) -> Path | None:
    """The first folder, root or at most two below it, that holds all the names."""
    levels = ([root], root.glob("*/"), root.glob("*/*/"))
    for folder in itertools.chain.from_iterable(map(sorted, levels)):
        finished = not any(part.endswith(".part") for part in folder.relative_to(root).parts)
        if finished and all(_is_there(folder, name) for name in names):
            return folder
    return None


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() if name.endswith("/") else (folder / name).is_file()


def _fetch(operation: str, root: Path, layout: Layout) -> Path:
    """Download the archive of a layout into root."""
    try:  # pooch downloads into a temporary file, checks it, and renames it
        pooch.retrieve(layout.url, f"md5:{layout.md5}", fname=layout.archive, path=root, progressbar=True)
    except ValueError as error:  # the checksum differs
        raise ValueError(
            f"{operation}: what came from {layout.url} is not the published {layout.archive}, whose "
            f"MD5 is {layout.md5} ({error}); try again later, or get it elsewhere and put it into "
            f"{str(root)!r}"
        ) from error
    except OSError as error:
        raise OSError(
            f"{operation}: cannot download {layout.url} ({error}); try again, or get "
            f"{layout.archive} by other means and put it into {str(root)!r}"
        ) from error
    return root / str(layout.archive)


def unpack(operation: str, archive: Path, holds: Sequence[str], md5: str | None = None) -> Path:
    """Unpack an archive into a folder of its name beside it, if that has not been done.

    The names that it ``holds`` must lie together in it, or in a folder of it; which folder is returned.
    """
    done = find(archive.parent, holds)
    if done is not None:
        return done
    if md5 is not None and (came := pooch.file_hash(str(archive), alg="md5")) != md5:
        raise ValueError(
            f"{operation}: {str(archive)!r} is not the published file: its MD5 must be {md5}, got "
            f"{came}; it is damaged or cut short: delete it and fetch it again"
        )
    target = archive.with_name(re.sub(r"\.(zip|tar|tar\.gz|tgz)$", "", archive.name))
    with tempfile.TemporaryDirectory(dir=archive.parent, suffix=".part") as partial:
        content = Path(partial, "content")
        content.mkdir()
        _extract(operation, archive, content)
        if find(content, holds) is None:
            raise ValueError(
                f"{operation}: {str(archive)!r} must hold {', '.join(holds)}, but does not; it is "
                "incomplete or another archive: delete it and fetch it again"
            )
        only = content / target.name  # many archives hold one folder of their own name
        publish(only if list(content.iterdir()) == [only] else content, target)
    unpacked = find(archive.parent, holds)
    if unpacked is None:
        raise FileExistsError(
            f"{operation}: cannot unpack {str(archive)!r}, because {str(target)!r} exists and does not "
            f"hold {', '.join(holds)}; remove or rename it"
        )
    return unpacked


def publish(finished: Path, target: Path) -> None:
    """Move a finished folder to its place; if another process was faster, its work stays."""
    try:
        finished.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _extract(operation: str, archive: Path, folder: Path) -> None:
    """Unpack into an empty folder: plain files and folders only, and nothing outside of it."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(folder)  # which changes names that would lead outside
        else:
            with tarfile.open(archive) as packed:
                for member in packed:
                    _check_member(member)
                # tarfile takes a damaged header for the end, which is a block of zeros.
                packed.fileobj.seek(packed.offset)
                if packed.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise ValueError(f"the header at byte {packed.offset} is damaged or missing")
                # Early versions of Python 3.10 and 3.11, such as Debian 12's 3.11.2, have no filter. What
                # is checked above leaves it nothing to refuse.
                packed.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                packed.extractall(folder)
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno not in _OF_NAMES:
            raise OSError(
                f"{operation}: cannot unpack {str(archive)!r} ({error}); see to the disk and try again"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__  # tarfile's goes over several lines
        raise ValueError(
            f"{operation}: cannot unpack {str(archive)!r} ({reason:.500}); it is damaged or not the "
            "published file: delete it and fetch it again"
        ) from error


def _check_member(member: tarfile.TarInfo) -> None:
    """Raise ValueError for one that is no plain file or folder inside; give the others usual rights."""
    place = PurePosixPath(member.name)
    # On Windows "..\evil", "C:evil" and ".. /evil" lead outside too.
    dots = any(not part.strip(" .") for part in place.parts)
    leaves = place.is_absolute() or dots or any(sign in member.name for sign in "\\:")
    if leaves or not (member.isreg() or member.isdir()):
        raise ValueError(f"its member {member.name!r} is no plain file or folder inside it")
    member.mode = 0o755 if member.isdir() else 0o644
