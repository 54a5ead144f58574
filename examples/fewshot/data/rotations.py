"""More classes from the same images: a character turned by 90, 180 or 270 degrees is another one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .classes import ImageClasses, Images

_ANGLES = ("", " turned by 90", " turned by 180", " turned by 270")


def with_rotations(classes: ImageClasses) -> ImageClasses:
    """The classes, then all of them turned by 90, 180 and 270 degrees: 4 K classes of square images.

    As for Omniglot since Santoro et al. 2016 (https://arxiv.org/abs/1605.06065). Images are turned
    when they are asked for, so the four times as many classes take no more memory.

    Raises
    ------
    ValueError : if the images are not square.

    Examples
    --------
    >>> image = np.eye(2, dtype=np.uint8)[None, None]
    >>> turned = with_rotations(ImageClasses(image, np.array([0, 1]), ("BACKSLASH",), ("OGHAM",)))
    >>> turned.names
    ('BACKSLASH', 'BACKSLASH turned by 90', 'BACKSLASH turned by 180', 'BACKSLASH turned by 270')
    >>> turned.images[np.array([1])].tolist()
    [[[[0, 1], [1, 0]]]]
    """
    count, _, height, width = classes.images.shape
    if height != width:
        raise ValueError(
            f"with_rotations: images must be square, got {height} x {width}; "
            "cut or pad them before turning them"
        )
    starts = [classes.offsets[1:] + quarter * count for quarter in range(4)]
    return replace(
        classes,
        images=_Turned(classes.images),
        offsets=np.concatenate([classes.offsets[:1], *starts]),
        names=tuple(name + angle for angle in _ANGLES for name in classes.names),
        alphabets=classes.alphabets * 4,
    )


class _Turned:
    """The images, then all of them turned by one, two and three quarters, turned when asked for."""

    def __init__(self, images: Images) -> None:
        count, *rest = images.shape
        self.images, self.count = images, count
        self.shape = (4 * count, *rest)
        self.dtype = images.dtype

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        quarters, rows = np.divmod(rows, self.count)
        turned = np.array(self.images[rows])  # a copy, to turn in place
        for quarter in range(1, 4):
            chosen = quarters == quarter
            turned[chosen] = np.rot90(turned[chosen], quarter, axes=(-2, -1))
        return turned
