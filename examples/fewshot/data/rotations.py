"""More classes from the same images: a character turned by 90, 180 or 270 degrees is another one."""

from __future__ import annotations

import numpy as np

from .episodes import ImageClasses


def with_rotations(classes: ImageClasses) -> ImageClasses:
    """The classes, then all of them turned by 90, 180 and 270 degrees: 4 C classes of square images.

    As for Omniglot since Santoro et al. 2016 (https://arxiv.org/abs/1605.06065).

    >>> import numpy as np
    >>> one = ImageClasses(np.eye(2, dtype=np.uint8)[None], np.array([0, 1]), ("BACKSLASH",), ("OGHAM",))
    >>> turned = with_rotations(one)
    >>> turned.names
    ('BACKSLASH', 'BACKSLASH turned by 90', 'BACKSLASH turned by 180', 'BACKSLASH turned by 270')
    >>> turned.images[1].tolist()
    [[0, 1], [1, 0]]
    """
    turned = [np.rot90(classes.images, quarter, axes=(1, 2)) for quarter in range(4)]
    starts = [classes.offsets[1:] + quarter * len(classes.images) for quarter in range(4)]
    angles = ("", " turned by 90", " turned by 180", " turned by 270")
    return ImageClasses(
        images=np.concatenate(turned),
        offsets=np.concatenate([classes.offsets[:1], *starts]),
        names=tuple(name + angle for angle in angles for name in classes.names),
        alphabets=classes.alphabets * 4,
    )
