"""Tiny runs of a program, killed at given moments: itself a program, for `tests.examples.moments`."""

import json
import sys

import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.training.settings import TrainingSettings
from tests.examples.moments import Moments, run_and_kill
from tests.examples.programs import PROGRAMS


def run(settings: TrainingSettings, moments: Moments) -> int:
    for owner, name, moment in program.moments:
        setattr(owner, name, moments.reach_in(getattr(owner, name), moment))
    program.stand_in(setattr)
    program.without_pictures(setattr)
    status: int = program.module.main(settings)
    return status


if __name__ == "__main__":
    torch.set_num_threads(1)
    program = PROGRAMS[sys.argv[1]]
    kinds = run_and_kill(run, type(program.settings).from_record(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(kinds) + "\n")
