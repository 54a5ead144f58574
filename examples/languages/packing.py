"""Words in few rows, one behind the other: padding to the longest word would be half of all positions.

Letters in the shapes: B words, L positions of the longest one, R rows, n positions of all words.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where words go.

    Attributes
    ----------
    rows, columns : (n,) int64, of each position, word by word.
    resets : (R, L) bool, where a word begins.
    """

    rows: Tensor
    columns: Tensor
    resets: Tensor


def pack(mask: Tensor) -> Packing:
    """Rows for words with a mask (B, L), false at padding: each word in the first row that has room for it,
    the longest word first.

    >>> to = pack(torch.tensor([[True, True, False], [True, True, True], [True, False, False]]))
    >>> to.rows, to.columns
    (tensor([1, 1, 0, 0, 0, 1]), tensor([0, 1, 0, 1, 2, 2]))
    """
    lengths = mask.sum(-1)
    filled: list[int] = []
    first = torch.zeros(2, len(mask), dtype=torch.int64)  # row and column of each word's first position
    for word in lengths.argsort(descending=True, stable=True).tolist():
        length = int(lengths[word])
        row = next((row for row, used in enumerate(filled) if used + length <= mask.shape[1]), len(filled))
        if row == len(filled):
            filled.append(0)
        first[:, word] = torch.tensor([row, filled[row]])
        filled[row] += length
    words, _ = mask.nonzero(as_tuple=True)
    rows, begins = first.to(mask.device)[:, words]
    columns = begins + mask.cumsum(-1)[mask] - 1
    resets = mask.new_zeros(len(filled), mask.shape[1])
    resets[rows, columns] = columns == begins
    return Packing(rows, columns, resets)
