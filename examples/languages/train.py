"""Train a model on words of a language: ``python -m examples.languages.train --help``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from ..training.command_line import run_program
from ..training.loop import State
from ..training.objective import Batch, MicroBatches, Objective, Share
from ..training.program import train
from ..training.run_folder import RunFolder
from ..training.schedule import cosine
from ..training.supervised import Supervised
from .evaluate import evaluate_run
from .model import Reader, build_reader
from .plots import draw_curves
from .presets import DESCRIPTIONS, PRESETS, smoke
from .scores import score
from .settings import Settings
from .words import NOT_SCORED, TrainingWords


class Labelling(Objective[Reader]):
    """The cross-entropy of a word's labels, the mean over its positions that count, and over words."""

    unit = "word"

    def __init__(self, reader: Reader, settings: Settings) -> None:
        super().__init__(reader, settings.steps, settings.batch_size, settings.accumulation)
        self.settings = settings

    def dataset(self, share: Share) -> MicroBatches:
        s = self.settings
        words = TrainingWords(s.words, s.seed, s.low, partial(_longest, s))
        return MicroBatches(words, share, share.size(s.batch_size, "--batch-size"))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch: as `words.batch_of` gives."""
        self.train()
        labels = batch["labels"]
        logits = self.learner(batch["tokens"], batch["mask"])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits.mT, labels, ignore_index=NOT_SCORED, reduction="none")
        counts = labels != NOT_SCORED
        wrong = (logits.detach().argmax(-1) != labels) & counts
        return {
            "loss": (losses.sum(-1) / counts.sum(-1)).mean(),
            "positions": 1 - (wrong.sum(-1) / counts.sum(-1)).mean(),
            "words": (~wrong.any(-1)).float().mean(),
        }

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.learner.parameters()), "lr": self.settings.learning_rate}]


def _longest(settings: Settings, number: int) -> int:
    """Of a training word, by its number."""
    return settings.longest(number // settings.batch_size)


class Training(Supervised[Reader]):
    """A reader, trained on short words and validated on longer ones too.

    The validation's accuracy is the mean of two shares of faultless words: of the training's lengths, and
    of the next bin's. While there are none, positions tell which weights are better: the merit, which
    decides, is the mean of both.
    """

    project = "languages"
    score = "merit"
    settings: Settings

    def __init__(self, settings: Settings, accelerator: Accelerator) -> None:
        super().__init__(build_reader(settings), settings, accelerator)
        self.validate_every, self.early_stop = settings.validate_every, settings.early_stop

    def make_objective(self, phase: str) -> Labelling:
        return Labelling(self.learner, self.settings)

    def rate(self, peak: float, step: int, share_done: float) -> float:
        s = self.settings
        return peak * cosine(share_done, s.lr_warmup, s.lr_final if s.schedule == "cosine" else 1.0)

    def validate(self) -> dict[str, float]:
        s = self.settings
        found = {
            f"{low}_{high}": score(
                self.learner,
                s.words,
                seed=s.seed,
                use="validation",
                count=s.validation_words,
                low=low,
                high=high,
            )
            for low, high in s.all_bins[:2]
        }
        words, positions = (
            {f"{what}_{name}": getattr(of_bin, what) for name, of_bin in found.items()}
            for what in ("words", "positions")
        )
        accuracy, of_positions = (sum(of.values()) / len(of) for of in (words, positions))
        return {"accuracy": accuracy, **words, **positions, "merit": (accuracy + of_positions) / 2}

    def is_solved(self, scores: Mapping[str, float]) -> bool:
        return scores["accuracy"] == 1


def make(settings: Settings, accelerator: Accelerator, state: State | None) -> Training:
    """The work of a run."""
    return Training(settings, accelerator)


def finish(settings: Settings, training: Training) -> None:
    """Evaluate the weights that did best."""
    evaluate_run(RunFolder(settings.folder))


def main(settings: Settings) -> int:
    """Train, draw the curves, evaluate; returns the exit status. Raises as `program.train`."""
    return train(settings, make, draw_curves, finish)


if __name__ == "__main__":
    run_program(main, PRESETS, DESCRIPTIONS, Settings(), smoke)
