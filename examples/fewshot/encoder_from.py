"""Taking over the encoder of another run."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from ..training.broadcasting import from_main
from ..training.run_folder import RunFolder
from ..training.weights import check_weights
from .models import FewShotLearner
from .settings import Settings

_PREFIX = "encoder."


def take_encoder(learner: FewShotLearner, run: Path, accelerator: Accelerator) -> None:
    """Copy weights and running statistics of the encoder that did best in another run.

    Only the main process, which alone writes a run's folder, reads that of the other run.

    Raises
    ------
    FileNotFoundError : if the folder holds no checkpoint.
    ValueError : if that encoder is another one, or its file damaged.
    """
    theirs = from_main(accelerator, lambda: _read_encoder(run))
    ours = learner.encoder.state_dict()
    shapes, other_shapes = ({name: a.shape for name, a in of.items()} for of in (ours, theirs))
    different = sorted({name for name, _ in shapes.items() ^ other_shapes.items()})
    if different:
        raise ValueError(
            f"train: --encoder-from {run} holds another encoder, they differ in {', '.join(different)}; "
            "give this run the same --encoder, --encoder-channels, --channels and --image-size"
        )
    saved = {name: value.float() if value.is_floating_point() else value for name, value in ours.items()}
    check_weights(theirs, saved, RunFolder(run).best_or_last_path)
    learner.encoder.load_state_dict(theirs)


def _read_encoder(run: Path) -> dict[str, Tensor]:
    weights = RunFolder(run).best_or_last(Settings).get("learner", {})
    return {name.removeprefix(_PREFIX): a for name, a in weights.items() if name.startswith(_PREFIX)}
