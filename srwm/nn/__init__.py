"""torch layers: a self-referential weight matrix per head, layers to compare with it, a feed-forward block.

All have the same call, ``out, state = layer(h, state, reset, mask)``, so that each can replace another:
`SRWM`, `DeltaNet`, `SRDelta`, `SelfModifyingTitans`, `DeltaCDE`, `FakeSR`, `FeedForward`, and a `Stack` of
them. They are batch-first.
`maps` has the feature maps of queries and keys.
Letters: `srwm.reference`; in addition H, the number of heads, each with D = d_model / H entries.
"""

from srwm.nn import maps
from srwm.nn._mixer import Residual
from srwm.nn.delta_cde import DeltaCDE
from srwm.nn.delta_net import DeltaNet
from srwm.nn.fake_sr import FakeSR
from srwm.nn.feed_forward import FeedForward
from srwm.nn.self_modifying_titans import SelfModifyingTitans
from srwm.nn.sr_delta import SRDelta
from srwm.nn.srwm import SRWM
from srwm.nn.stack import Stack

__all__ = [
    "SRWM",
    "DeltaCDE",
    "DeltaNet",
    "FakeSR",
    "FeedForward",
    "Residual",
    "SRDelta",
    "SelfModifyingTitans",
    "Stack",
    "maps",
]
