"""Tiny runs that are killed at given moments: a program, for `tests.examples.moments`."""

import json
import sys

import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.rl.actors import ThreadedActor
from examples.rl.settings import Settings, load_settings
from examples.rl.trainer import Trainer
from examples.training.interrupt import StopRequest
from examples.training.run_folder import RunFolder
from tests.examples.moments import Moments, run_and_kill
from tests.examples.rl.training import make_trainer


def run(settings: Settings, moments: Moments) -> int:
    Trainer._learn = moments.reach_in(Trainer._learn, "in an update")
    ThreadedActor.finish = moments.reach_in(ThreadedActor.finish, "waiting for an unroll")
    ThreadedActor.start = moments.reach_in(ThreadedActor.start, "before an unroll")
    folder = RunFolder(settings.folder)
    state = folder.open(settings)
    trainer = make_trainer(settings)
    if state is not None:
        trainer.resume(state)
    return 0 if trainer.train(StopRequest()) else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = run_and_kill(run, load_settings(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(kinds) + "\n")
