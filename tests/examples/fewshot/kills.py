"""Tiny runs that are killed at given moments: a program, for `tests.examples.moments`."""

import json
import sys

import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.fewshot import evaluate, train
from examples.fewshot.bootstrapping import Bootstrapping
from examples.fewshot.data.classes import Splits
from examples.fewshot.objectives import EncoderWarmup, EpisodeTraining
from examples.fewshot.sequential import SequentialTraining
from examples.fewshot.settings import Settings
from tests.examples.fewshot.conftest import patterns
from tests.examples.moments import Moments, run_and_kill


def run(settings: Settings, moments: Moments) -> int:
    for objective in (EncoderWarmup, EpisodeTraining, Bootstrapping, SequentialTraining):
        objective.forward = moments.reach_in(objective.forward, "in a step")
    train.draw_curves = evaluate.draw_gallery = lambda *args: None
    evaluate.draw_positions = lambda *args, **kwargs: None
    splits = Splits(train=patterns(12, 6, 0), validation=patterns(8, 6, 1), test=patterns(8, 6, 2))
    train.load_domains = lambda settings: [splits] * (2 if settings.second_data else 1)
    return train.main(settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = run_and_kill(run, Settings.from_record(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(kinds) + "\n")
