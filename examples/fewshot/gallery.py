"""episodes.png: what the learner saw in some episodes, and what it answered."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

from .data.classes import ImageClasses
from .data.episodes import EpisodeSampler
from .models import FewShotLearner

_COLUMNS, _ROWS = 2, 5
_INK, _RIGHT, _WRONG, _TRACK, _QUIET = "#22262e", "#2f7d5b", "#c8472f", "#e3e1db", "#7d7a74"
_PAPER = LinearSegmentedColormap.from_list("paper", ["#f6f4ee", _INK])
_QUERY_PAPER = LinearSegmentedColormap.from_list("query paper", ["#fbeec4", _INK])
_PITCH = 1.18  # from one card to the next; a card is 1 wide
_TEXT: dict[str, Any] = {"ha": "center", "linespacing": 1.15}
_FIRST_CARD = 1.75  # left edge of the support, to the right of the query


def draw_gallery(
    learner: FewShotLearner, sampler: EpisodeSampler, classes: ImageClasses, path: Path
) -> None:
    """Draw a sampler's first episodes: the first query, the support, the probabilities answered.

    The learner is left in evaluation mode; the sampler draws from these classes.
    """
    drawn = sampler.batch(0, _COLUMNS * _ROWS)
    learner.eval()
    with torch.no_grad():
        logits = learner(drawn.support, drawn.support_labels, drawn.query[:, :1])
    probabilities = logits[:, 0].softmax(dim=-1)  # (B, N)
    shown_support, shown_query = (_to_show(images, classes) for images in (drawn.support, drawn.query))

    width = _FIRST_CARD + _PITCH * sampler.n_way
    height = sampler.k_shot * _PITCH + 0.75
    size = (_COLUMNS * width * 0.78, _ROWS * height * 0.78 + 1.1)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    title = f"{sampler.n_way}-way {sampler.k_shot}-shot: which of the cards is the query?"
    figure.suptitle(title, color=_INK, fontsize=17, fontweight="bold")
    for episode, axes in enumerate(figure.subplots(_ROWS, _COLUMNS).flat):
        axes.set(xlim=(-0.1, width), ylim=(-0.62, height - 0.62), aspect="equal")
        axes.axis("off")
        by_label = drawn.support_labels[episode].argsort(stable=True)
        support = shown_support[episode, by_label]  # (N * K, H, W) or (N * K, H, W, 3)
        true = int(drawn.query_labels[episode, 0])
        by_class = support.unflatten(0, (sampler.n_way, sampler.k_shot))
        _draw_support(axes, by_class, probabilities[episode], true)
        middle = (sampler.k_shot - 1) * _PITCH / 2
        _draw_card(axes, shown_query[episode, 0], 0.0, middle, _QUERY_PAPER, _INK, 1.6)
        name = _caption(classes.names[int(drawn.classes[episode, true])])
        axes.text(0.5, middle - 0.12, name, **_TEXT, color=_QUIET, fontsize=7.5, va="top")
    legend = (
        "Left: the query. Beside it: the labelled examples, each with the probability the learner "
        "gives it.\nFramed: its answer, green where right, red where wrong; ✓ is the true class."
    )
    figure.supxlabel(legend, color=_QUIET, fontsize=10.5)
    figure.savefig(path, dpi=110)


def _draw_support(axes: Axes, support: Tensor, probabilities: Tensor, true: int) -> None:
    """Images (N, K, H, W) or (N, K, H, W, 3) as columns of cards, with a bar below each column."""
    answer = int(probabilities.argmax())
    for label, (images, probability) in enumerate(zip(support, probabilities.tolist(), strict=True)):
        left = _FIRST_CARD + _PITCH * label
        chosen = label == answer
        colour = (_RIGHT if answer == true else _WRONG) if chosen else _TRACK
        for shot, image in enumerate(images):
            _draw_card(axes, image, left, shot * _PITCH, _PAPER, colour, 3.0 if chosen else 1.0)
        for length, fill in ((1.0, _TRACK), (probability, colour if chosen else _QUIET)):
            axes.barh(-0.19, length, height=0.1, left=left, color=fill)
        text = f"{probability:.0%}" + (" ✓" if label == true else "")
        weight = "bold" if chosen or label == true else "normal"
        colour = colour if chosen else _INK if label == true else _QUIET
        axes.text(left + 0.5, -0.3, text, **_TEXT, color=colour, fontsize=10, fontweight=weight, va="top")


def _draw_card(
    axes: Axes, image: Tensor, left: float, bottom: float, paper: Colormap, colour: str, line: float
) -> None:
    frame = FancyBboxPatch(
        (left + 0.06, bottom + 0.06),
        0.88,
        0.88,
        boxstyle="round,pad=0.06,rounding_size=0.1",
        facecolor=paper(0.0),
        edgecolor=colour,
        linewidth=line,
        zorder=2,
    )
    axes.add_patch(frame)
    extent = (left, left + 1, bottom, bottom + 1)
    picture = axes.imshow(image.numpy(), cmap=paper, vmin=0, vmax=1, extent=extent, interpolation="bicubic")
    picture.set_clip_path(frame)
    picture.set_zorder(3)


def _to_show(images: Tensor, classes: ImageClasses) -> Tensor:
    """(..., C, H, W) as the learner saw them -> in [0, 1], (..., H, W) for grey or (..., H, W, 3)."""
    if classes.normalisation is not None:
        images = classes.normalisation.undo(images).clamp(0, 1)
    grey = classes.images.shape[1] == 1
    return images[..., 0, :, :] if grey else images.movedim(-3, -1)


def _caption(name: str) -> str:
    """A class's name on two short lines: the script, and the letter."""
    words = name.replace("/", " ").replace("_", " ").title().split()
    script, letter = words[0], " ".join(words[1:]).replace("Letter ", "")
    return f"{script}\n{letter if len(letter) <= 18 else letter[:17] + '…'}"
