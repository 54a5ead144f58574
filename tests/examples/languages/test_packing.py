"""Words one behind the other in few rows: each has its place, and is read as if it were alone."""

import pytest
import torch

from examples.languages.model import Reader
from examples.languages.packing import pack
from examples.training.cores import build_core


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(-1)


@pytest.mark.parametrize(
    ("lengths", "rows"), [((5,), 1), ((1, 5, 2, 2), 2), ((3, 3, 3), 3), ((4, 1) * 8, 10)]
)
def test_each_word_has_a_place_of_its_own_in_the_fewest_rows(lengths, rows):
    mask = mask_of(*lengths)
    to = pack(mask)
    assert to.resets.shape == (rows, max(lengths))
    places = list(zip(to.rows.tolist(), to.columns.tolist(), strict=True))
    assert len(set(places)) == len(places) == sum(lengths)
    for word in torch.tensor(places).split(lengths):
        (row, first), length = word[0].tolist(), len(word)
        assert word.tolist() == [[row, first + step] for step in range(length)]
        assert to.resets[row, first : first + length].tolist() == [True] + [False] * (length - 1)
    assert to.resets.sum() == len(lengths)


@pytest.mark.parametrize("core", ["srwm", "deltanet", "self_modifying_titans", "lstm", "transformer"])
def test_words_are_read_as_if_each_were_alone(core):
    torch.manual_seed(0)
    reader = Reader(build_core(core, 3, 4, n_heads=2, d_model=8, d_ff=12).double(), 3)
    lengths = (4, 9, 2, 5, 1)
    mask, tokens = mask_of(*lengths), torch.randint(3, (5, 9))
    together = reader(tokens, mask)
    assert together.shape == (5, 9, 4)
    alone = [reader(tokens[[word], :length])[0] for word, length in enumerate(lengths)]
    torch.testing.assert_close(together[mask], torch.cat(alone))
    cotangent, parameters = torch.randn(sum(lengths), 4).double(), list(reader.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(together[mask], parameters, cotangent),
        torch.autograd.grad(torch.cat(alone), parameters, cotangent),
    )
