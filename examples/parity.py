"""Parity, learnt on short words and right on longer ones: a whole training in one file.

    python examples/parity.py                      # a minute; also: accelerate launch examples/parity.py
    python examples/parity.py --layer DeltaNet     # the same with a layer that does not rewrite itself

A word is a sequence of bits. At each position the model says whether the number of ones so far is even. A
model that only compares words with those it has seen fails on longer ones; one that keeps a bit, and flips
it at each one, is right for ever. The weight matrix of an `SRWM` layer is what it keeps, and it rewrites it
at each step. (Irie, Csordás, Schmidhuber, EMNLP 2023: https://arxiv.org/abs/2310.16076.)

Letters in the shapes: B words, L bits.
"""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from srwm import nn as srwm_nn

D_MODEL, N_HEADS, N_LAYERS = 64, 4, 2


class Reader(nn.Module):
    """Two layers that read a word, each followed by a feed-forward block."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        make = getattr(srwm_nn, layer)
        self.embedding = nn.Embedding(2, D_MODEL)
        self.stack = srwm_nn.Stack(
            part
            for _ in range(N_LAYERS)
            for part in (make(D_MODEL, N_HEADS), srwm_nn.FeedForward(D_MODEL, 4 * D_MODEL))
        )
        self.answer = nn.Linear(D_MODEL, 2)

    def forward(self, bits: Tensor, mask: Tensor) -> Tensor:
        """Bits (B, L), mask (B, L) false behind a word's end -> logits (B, L, 2)."""
        h, _ = self.stack(self.embedding(bits), mask=mask, return_state=False)
        return self.answer(h)


def draw(
    count: int, shortest: int, longest: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random words: bits, parities and mask, (B, L) each."""
    lengths = torch.randint(shortest, longest + 1, (count, 1), generator=generator)
    bits = torch.randint(2, (count, longest), generator=generator)
    return bits, 1 - bits.cumsum(1) % 2, torch.arange(longest) < lengths


@torch.no_grad()
def score(reader: nn.Module, shortest: int, longest: int, device: torch.device) -> float:
    """Share of words, the same ones every time, of which each position is right."""
    words = draw(500, shortest, longest, torch.Generator().manual_seed(1))
    bits, parities, mask = (a.to(device) for a in words)
    right = reader(bits, mask).argmax(-1) == parities
    return float((right | ~mask).all(1).float().mean())


def main() -> float:
    """Train until all words are right; the share of longer words that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layer", default="SRWM", help="a layer of srwm.nn (default: SRWM)")
    parser.add_argument("--steps", type=int, default=1000, help="at most (default: 1000)")
    parser.add_argument("--longest", type=int, default=50, help="longest word to train on (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    set_seed(options.seed)
    reader = Reader(options.layer)
    optimizer = torch.optim.Adam(reader.parameters(), lr=1e-3)
    reader, optimizer = accelerator.prepare(reader, optimizer)
    # Each process draws words of its own.
    generator = torch.Generator().manual_seed(1000 * options.seed + 10 + accelerator.process_index)
    longer = 0.0
    for step in range(1, options.steps + 1):
        bits, parities, mask = (a.to(accelerator.device) for a in draw(64, 2, options.longest, generator))
        loss = F.cross_entropy(reader(bits, mask)[mask], parities[mask])
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == options.steps:
            as_long = score(reader, 2, options.longest, accelerator.device)
            longer = score(reader, options.longest + 1, 2 * options.longest, accelerator.device)
            accelerator.print(
                f"step {step:5}  loss {loss.item():.4f}  words right: {as_long:.1%} of lengths 2 to "
                f"{options.longest}, {longer:.1%} of {options.longest + 1} to {2 * options.longest}"
            )
            if as_long == longer == 1:
                break
    return longer


if __name__ == "__main__":
    main()
