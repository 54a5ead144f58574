"""torch layers: a self-referential weight matrix per head, three to compare it with, a feed-forward block.

All are called alike, ``out, state = layer(h, state, reset, mask)``, so that one can stand in another's
place: `SRWM`, `DeltaNet`, `SRDelta`, `FakeSR`, `FeedForward`, and a `Stack` of them. Batch-first. Letters:
`srwm.reference`; further H heads of D = d_model / H entries each.
"""

from srwm.nn._mixer import Residual
from srwm.nn.delta_net import DeltaNet
from srwm.nn.fake_sr import FakeSR
from srwm.nn.feed_forward import FeedForward
from srwm.nn.sr_delta import SRDelta
from srwm.nn.srwm import SRWM
from srwm.nn.stack import Stack

__all__ = ["SRWM", "DeltaNet", "FakeSR", "FeedForward", "Residual", "SRDelta", "Stack"]
