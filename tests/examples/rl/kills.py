"""Tiny runs that are killed at given moments: a program, for `tests.examples.moments`."""

import json
import sys

import torch
import torch._dynamo  # which a run imports late; once for all
import torch.distributed.tensor

from examples.rl.actors import ThreadedActor
from examples.rl.settings import Settings
from examples.rl.trainer import Training
from examples.training.interrupt import StopRequest
from tests.examples.moments import Moments, run_and_kill
from tests.examples.rl.training import make_loop


def run(settings: Settings, moments: Moments) -> int:
    Training._learn = moments.reach_in(Training._learn, "in an update")
    ThreadedActor.finish = moments.reach_in(ThreadedActor.finish, "waiting for an unroll")
    ThreadedActor.start = moments.reach_in(ThreadedActor.start, "before an unroll")
    return 0 if make_loop(settings).train(StopRequest()) else 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = run_and_kill(run, Settings.from_record(json.load(sys.stdin)))
    sys.stdout.write(json.dumps(kinds) + "\n")
