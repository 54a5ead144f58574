"""Taking over the encoder of another run."""

from __future__ import annotations

from pathlib import Path

from ..training.run_folder import RunFolder
from .models import FewShotLearner

_PREFIX = "encoder."


def take_encoder(learner: FewShotLearner, run: Path) -> None:
    """Copy weights and running statistics of the encoder that did best in another run.

    Raises
    ------
    FileNotFoundError : if the folder holds no checkpoint.
    ValueError : if that encoder is another one.
    """
    state = RunFolder(run).best_or_last()["learner"]
    theirs = {
        name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)
    }
    ours = learner.encoder.state_dict()
    different = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape
    ]
    if different:
        raise ValueError(
            f"train: --encoder-from {run} holds another encoder, they differ in {', '.join(different)}; "
            "give this run the same --encoder, --encoder-channels, --channels and --image-size"
        )
    learner.encoder.load_state_dict(theirs)
