"""The generators behind `textures`: each draws the heights of one kind of surface.

A family is a function of a `Sheet`, which holds the coordinates and the random numbers of B images,
and of four traits in (0, 1), which tell the family's classes apart. It returns heights (B, H, W) in
[0, 1], which `textures` colours.

Only + - * / sqrt and floor are used, in float32 and elementwise: they are exactly rounded, hence the
same on every machine, which sines, exponentials, matrix products and Fourier transforms are not.

Letters in the shapes: B images of H x W pixels.
"""

from collections.abc import Callable, Iterator

import numpy as np

Array = np.ndarray
Traits = tuple[float, float, float, float]

_LATTICE = 32  # numbers repeat after as many lattice cells, more than a sheet shows; a power of two
NUMBERS = (6, _LATTICE * _LATTICE)  # of a sheet's image: tables, and cells of the lattice


class Sheet:
    """Coordinates of B images, and random numbers for the cells of a lattice, each image its own.

    x and y are (B, H, W) float32, one unit per image width; numbers (B, *NUMBERS) float32, in [0, 1).
    """

    def __init__(self, x: Array, y: Array, numbers: Array) -> None:
        self.x, self.y = x, y
        self.tables = np.ascontiguousarray(np.moveaxis(numbers, 1, 0)).reshape(NUMBERS[0], -1)
        self.first = (np.arange(len(x), dtype=np.int32) * NUMBERS[1])[:, None, None]

    def number(self, table: int, i: Array, j: Array) -> Array:
        """(B, H, W) in [0, 1): the number that a table holds for lattice cells i, j."""
        column, row = (t.astype(np.int32) & (_LATTICE - 1) for t in (i, j))
        return self.tables[table].take(self.first + (_LATTICE * column + row))

    def noise(self, x: Array, y: Array, table: int = 0) -> Array:
        """Gradient noise (Perlin 2002), about -0.7 to 0.7, one feature per unit."""
        i, j = np.floor(x), np.floor(y)
        u, v = x - i, y - j
        corners = [
            (2 * self.number(table, i + a, j + b) - 1) * (u - a)
            + (2 * self.number(table + 1, i + a, j + b) - 1) * (v - b)
            for a in (0, 1)
            for b in (0, 1)
        ]
        across, along = _fade(u), _fade(v)
        left = corners[0] + along * (corners[1] - corners[0])
        right = corners[2] + along * (corners[3] - corners[2])
        return left + across * (right - left)

    def warp(self, strength: float, frequency: float) -> tuple[Array, Array]:
        """The coordinates, each pushed about by noise of up to `strength` image widths."""
        x, y = frequency * self.x, frequency * self.y
        return self.x + strength * self.noise(x, y, 2), self.y + strength * self.noise(x, y, 4)

    def cells(self, x: Array, y: Array, jitter: float) -> Iterator[tuple[Array, Array, Array, Array]]:
        """For the nine lattice cells round each point: the way dx, dy to their jittered centre, and i, j.

        The latter are for `number`, whose tables 0 and 1 are the centre's.
        """
        column, row = np.floor(x), np.floor(y)
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                i, j = column + a, row + b
                dx = i + 0.5 + jitter * (self.number(0, i, j) - 0.5) - x
                dy = j + 0.5 + jitter * (self.number(1, i, j) - 0.5) - y
                yield dx, dy, i, j


def direction(turns: Array) -> tuple[Array, Array]:
    """Unit vectors that go once round per turn, at nearly even speed: cosine, sine."""
    x, y = 2 * wave(turns) - 1, 2 * wave(turns - 0.25) - 1
    length = np.sqrt(x * x + y * y)
    return x / length, y / length


def wave(t: Array) -> Array:
    """Very nearly (1 + cos(2 pi t)) / 2."""
    triangle = abs(2 * (t - np.floor(t)) - 1)
    return triangle * triangle * (3 - 2 * triangle)


def step(edge: float | Array, width: float | Array, values: Array) -> Array:
    """0 below the edge, 1 above it, a smooth rise of the given width between."""
    t = np.clip((values - edge) / width + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _fade(t: Array) -> Array:
    return t * t * t * (t * (6 * t - 15) + 10)


def stripes(sheet: Sheet, traits: Traits) -> Array:
    """Stripes that wander, as on a zebra or in sand: number, wandering, its scale, width."""
    x, _ = sheet.warp(0.03 + 0.3 * traits[1], 1.5 + 3 * traits[2])
    return step(0.25 + 0.5 * traits[3], 0.5, wave((3 + 6 * traits[0]) * x))


def plaid(sheet: Sheet, traits: Traits) -> Array:
    """Two gratings, as in woven cloth: number, ratio, the angle between them, how they combine."""
    x, y = sheet.warp(0.05, 3)
    across, along = direction(np.full((1, 1, 1), 0.08 + 0.17 * traits[2], np.float32))
    frequency = 3 + 6 * traits[0]
    one = wave(frequency * x)
    other = wave(frequency * (0.5 + traits[1]) * (across * x + along * y))
    return traits[3] * one * other * 1.3 + (1 - traits[3]) * (0.6 * one + 0.4 * other)


def grain(sheet: Sheet, traits: Traits) -> Array:
    """Noise with a direction, as in hair, wood or rain: fineness, length, waviness, ridges."""
    x, y = sheet.warp(0.02 + 0.25 * traits[2], 2.5)
    fine, long = 7 + 10 * traits[0], 0.7 + 2.5 * traits[1]
    noise = sheet.noise(fine * x, long * y) + 0.5 * sheet.noise(2 * fine * x, 2 * long * y, 2)
    return (1 - traits[3]) * (0.5 + 0.8 * noise) + traits[3] * (1 - 2.2 * abs(noise))


def clouds(sheet: Sheet, traits: Traits) -> Array:
    """Fractal noise, as in stone or cloud: scale, roughness, ridges, contrast."""
    total = np.zeros_like(sheet.x)
    frequency, weight = 2.5 + 3 * traits[0], 1.0
    for octave in range(4):
        noise = sheet.noise(frequency * sheet.x, frequency * sheet.y, octave)
        total += weight * ((1 - traits[2]) * 1.4 * noise + traits[2] * (0.6 - 2.4 * abs(noise)))
        frequency, weight = 2.03 * frequency, weight * (0.3 + 0.5 * traits[1])
    return step(0.0, 1.9 - 1.2 * traits[3], total)


def cells(sheet: Sheet, traits: Traits) -> Array:
    """Voronoi cells (Worley 1996), as in skin or mud: number, irregularity, seams, tones."""
    x, y = sheet.warp(0.04, 4)
    frequency = 3 + 5 * traits[0]
    nearest = np.full_like(x, 9)
    second, tone = nearest.copy(), np.zeros_like(x)
    for dx, dy, i, j in sheet.cells(frequency * x, frequency * y, 0.3 + 0.7 * traits[1]):
        distance = np.sqrt(dx * dx + dy * dy)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        tone = np.where(closer, sheet.number(2, i, j), tone)
        nearest = np.minimum(nearest, distance)
    seam = step(0.05 + 0.25 * traits[2], 0.15, second - nearest)
    return seam * (traits[3] * (0.3 + 0.7 * tone) + (1 - traits[3]) * (1 - 0.9 * nearest))


def spots(sheet: Sheet, traits: Traits) -> Array:
    """Round spots, as on a leopard: number, size, spread of the sizes, hollow or full."""
    x, y = sheet.warp(0.06, 4)
    frequency = 3 + 5 * traits[0]
    height = np.zeros_like(x)
    for dx, dy, i, j in sheet.cells(frequency * x, frequency * y, 0.9):
        radius = (0.2 + 0.25 * traits[1]) * (1 - 0.8 * traits[2] * sheet.number(2, i, j))
        inside = (radius - np.sqrt(dx * dx + dy * dy)) / radius
        spot = step(0.0, 0.5, inside) * (1 - traits[3] * step(0.55, 0.4, inside))
        height = np.maximum(height, spot)
    return height


def bricks(sheet: Sheet, traits: Traits) -> Array:
    """Rows of bricks or tiles: number of rows, length, how far rows are shifted, seams."""
    x, y = sheet.warp(0.05, 3)
    rows = 3.5 + 6 * traits[0]
    row = np.floor(rows * y)
    along = rows * x / (1 + 2.2 * traits[1]) + row * (0.1 + 0.4 * traits[2])
    along = along + 0.35 * sheet.number(0, row, row)
    column = np.floor(along)
    to_row, to_column = (0.5 - abs(t - np.floor(t) - 0.5) for t in (rows * y, along))
    seam = np.minimum(to_row, to_column * (1 + 2.2 * traits[1]))
    tone = 0.45 + 0.55 * sheet.number(1, column, row)
    return step(0.06 + 0.14 * traits[3], 0.14, seam) * tone


def strokes(sheet: Sheet, traits: Traits) -> Array:
    """Short strokes, as rice or grass: number, length, width, how much they turn."""
    frequency = 3 + 4 * traits[0]
    height = np.zeros_like(sheet.x)
    half, width = 0.25 + 0.5 * traits[1], 0.06 + 0.16 * traits[2]
    for dx, dy, i, j in sheet.cells(frequency * sheet.x, frequency * sheet.y, 1.0):
        across, along = direction(0.5 * traits[3] * (sheet.number(2, i, j) - 0.5))
        position = np.clip(across * dx + along * dy, -half, half)
        ex, ey = dx - position * across, dy - position * along
        stroke = 1 - step(width, 0.12, np.sqrt(ex * ex + ey * ey))
        height = np.maximum(height, stroke * (0.5 + 0.5 * sheet.number(3, i, j)))
    return height


def scales(sheet: Sheet, traits: Traits) -> Array:
    """Overlapping round scales, as of a fish or a roof: number, overlap, rings, shade."""
    x, y = sheet.warp(0.05, 3)
    frequency = 3 + 4 * traits[0]
    overlap = 1.5 + 0.9 * traits[1]
    x, y = frequency * x, frequency * overlap * y
    height, uncovered = np.zeros_like(x), np.ones_like(x)
    for below in (1, 0):  # the round end of the row above lies on top
        row = np.floor(y) - below
        shifted = x + 0.5 * (row % 2)
        dx, dy = shifted - np.floor(shifted) - 0.5, (y - row) / overlap
        distance = 1.4 * np.sqrt(dx * dx + (dy - 0.1) * (dy - 0.1))
        rings = wave((1 + 3 * traits[2]) * distance)
        tone = (0.6 + 0.4 * sheet.number(0, np.floor(shifted), row)) * (1 - 0.6 * traits[3] * rings)
        here = 1 - step(0.92, 0.2, distance)
        height = height + uncovered * here * tone * (1 - 0.7 * step(0.78, 0.25, distance))
        uncovered = uncovered * (1 - here)
    return height


def contours(sheet: Sheet, traits: Traits) -> Array:
    """Lines of equal height, as on a map or in agate: scale, number, width, shade between."""
    x, y = sheet.warp(0.15, 2)
    frequency = 1.5 + 2 * traits[0]
    noise = sheet.noise(frequency * x, frequency * y)
    lines = wave((3 + 6 * traits[1]) * noise)
    return traits[3] * (0.5 + 0.6 * noise) + (1 - traits[3]) * step(0.2 + 0.6 * traits[2], 0.6, lines)


Family = Callable[[Sheet, Traits], Array]
FAMILIES: tuple[Family, ...] = (stripes, plaid, grain, clouds, cells, spots, bricks, strokes)
FAMILIES += (scales, contours)
