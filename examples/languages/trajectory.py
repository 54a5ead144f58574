"""How a self-referential weight matrix reads: ``python -m examples.languages.trajectory --help``.

Letters in the shapes: H heads, L positions, D entries of a head, M columns of a matrix.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

import srwm
from srwm.nn import SRWM

from ..training.command_line import run_with_options
from ..training.figures import COLOURS, LINE, finish, new_figure
from ..training.run_folder import RunFolder
from .evaluate import load_run
from .model import Reader
from .words import draw_word

_MEANINGS = {"parity": ["an odd number of ones so far", "an even number"]}  # of the labels
_BLOCKS = ("output W_y", "query W_q", "key W_k", "rates W_β")


@dataclass(frozen=True)
class Options:
    """Draw what an SRWM's matrices do while a word is read: their rates, keys and movement."""

    run: tyro.conf.Positional[Path]
    """Folder of a run with --core srwm, --residual norm_skip (or none given) and one or more layers."""
    word: str = ""
    """Its symbols, one behind the other; by default a test word of --length."""
    length: int = 40
    """Of that word."""
    output: Path = Path("docs/results/trajectory.png")
    """The picture."""


@dataclass(frozen=True)
class Reading:
    """What a head has done at each position of a word."""

    keys: np.ndarray  # (L, D) after the softmax
    rates: np.ndarray  # (L, 4) of the four blocks, after the sigmoid
    matrices: np.ndarray  # (L, D, M) after each position

    @property
    def projection(self) -> np.ndarray:
        """(L,) of the matrices on the direction in which they move the most."""
        moved = self.matrices.reshape(len(self.matrices), -1)
        moved = moved - moved.mean(0)
        _, _, directions = np.linalg.svd(moved, full_matrices=False)
        projected: np.ndarray = moved @ directions[0]
        return projected


@torch.no_grad()
def readings(reader: Reader, tokens: Tensor) -> list[list[Reading]]:
    """Of every head of every layer, while it reads tokens (L,) int64. Each must read its part of a layer's
    input as it is: so layers `srwm.nn.SRWM` do in "norm_skip" without a softmax of inputs.
    """
    layers = [layer for layer in reader.modules() if isinstance(layer, SRWM)]
    if not layers or any(layer.residual != "norm_skip" or layer.input_softmax for layer in layers):
        raise ValueError(
            "trajectory: expected a run with --core srwm, its residual norm_skip and no --input-softmax; "
            "choose another run"
        )
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in layers]
    reader.eval()
    reader(tokens[None])
    for hook in hooks:
        hook.remove()
    found = []
    for layer, h in zip(layers, inputs, strict=True):
        x = h[0].unflatten(-1, (layer.n_heads, layer.d_head)).transpose(0, 1)  # (H, L, D)
        matrices = srwm.trajectory(x, layer.W)
        before = torch.cat([layer.W[:, None], matrices[:, :-1]], 1)
        _, _, k, b = (torch.einsum("hld,hldm->hlm", x, block) for block in srwm.unpack(before))
        of_heads = zip(k.softmax(-1).numpy(), b.sigmoid().numpy(), matrices.numpy(), strict=True)
        found.append([Reading(*of_head) for of_head in of_heads])
    return found


def separation(projection: np.ndarray, labels: np.ndarray) -> float:
    """How far apart two labels' values lie, in units of their spread."""
    first, second = (projection[labels == label] for label in (0, 1))
    return float(abs(first.mean() - second.mean()) / (first.std() + second.std() + 1e-9))


def draw(
    reading: Reading, where: str, symbols: str, labels: np.ndarray, names: list[str], path: Path
) -> None:
    """Draw the reading of the head `where` of a word with labels (L,), 0 or 1, which are called `names`."""
    figure = new_figure(11, 8.4)
    moved, rates, keys = figure.subplots(3, 1, sharex=True, height_ratios=[1.5, 1, 1.2])
    figure.suptitle(f"What a self-referential weight matrix does while it reads a word ({where})")
    at = np.arange(1, len(symbols) + 1)
    projection = reading.projection
    moved.plot(at, projection, color=LINE, linewidth=1)
    for label, colour in enumerate(COLOURS[:2]):
        chosen = labels == label
        moved.plot(at[chosen], projection[chosen], "o", color=colour, label=names[label])
    finish(moved, "", "the matrix, projected on\nthe direction it moves in most")
    for block, of_block, colour in zip(_BLOCKS, reading.rates.T, COLOURS[2:], strict=False):
        rates.plot(at, of_block, ".-", label=f"of the {block}", color=colour)
    finish(rates, "", "learning rates\nthat it gives itself")
    rates.set_ylim(0, 1.03)
    for axes in (moved, rates):
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    extent = (0.5, len(symbols) + 0.5, reading.keys.shape[1] + 0.5, 0.5)
    shown = keys.imshow(reading.keys.T, aspect="auto", cmap="Blues", vmin=0, vmax=1, extent=extent)
    keys.set(ylabel="key: which rows\nit writes to", xlabel="symbols of the word, in their order")
    figure.colorbar(shown, cax=keys.inset_axes((1.015, 0, 0.02, 1)))
    keys.set_xticks(at, list(symbols))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def main(options: Options) -> None:
    """Draw the head whose matrix tells the labels apart best."""
    run = load_run(RunFolder(options.run))
    settings, reader = run.settings, run.model.cpu()
    task = settings.words
    if len(task.labels) != 2:
        raise ValueError(
            f"trajectory: expected a task with two labels, got {settings.task}; choose another run"
        )
    if options.word:
        found = task.label(options.word)
        tokens = np.array([task.symbols.index(symbol) for symbol in options.word])
        labels = np.array([task.labels.index(name) for name in found])
    else:
        word = draw_word(task, settings.seed, "test", 0, options.length - 1, options.length)
        tokens, labels = word.tokens, word.labels
    _, layer, head, reading = max(
        (separation(of_head.projection, labels), layer, head, of_head)
        for layer, of_layer in enumerate(readings(reader, torch.from_numpy(tokens)), 1)
        for head, of_head in enumerate(of_layer, 1)
    )
    symbols = "".join(task.symbols[token] for token in tokens)
    where = f"{settings.task}, layer {layer}, head {head}"
    names = _MEANINGS.get(settings.task, [f"label {name}" for name in task.labels])
    draw(reading, where, symbols, labels, names, options.output)
    print(f"{options.output}: {where}, {symbols}")


if __name__ == "__main__":
    run_with_options(main, "examples.languages.trajectory", Options)
