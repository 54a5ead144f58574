"""torch layers: self-referential weight matrices, fast weight programmers, a feed-forward block.

All have the same call, ``out, state = layer(h, state, reset, mask)``, so that each can replace another:

* `SRWM`, a self-referential weight matrix per head, and `FakeSR`, the same without its own updates;
* fast weights that a linear map programs: `LinearAttention` (sum rule), `DeltaNet` (delta rule),
  `RecurrentDeltaNet` and `DeltaRNN` (whose steps also depend on the last output);
* fast weights that fast weights program: `DeltaDelta`, and `SRDelta`, by a self-referential matrix;
* `SelfModifyingTitans`, a memory that modifies itself and forgets;
* `DeltaCDE`, fast weights driven by a path through the inputs;
* `FeedForward`, and a `Stack` of layers.

They are batch-first. `maps` has the feature maps of queries and keys. Letters: `srwm.reference`; in
addition H, the number of heads, each with D = d_model / H entries.
"""

from srwm.nn import maps
from srwm.nn._mixer import Residual
from srwm.nn.delta_cde import DeltaCDE
from srwm.nn.delta_delta import DeltaDelta
from srwm.nn.delta_net import DeltaNet
from srwm.nn.delta_rnn import DeltaRNN
from srwm.nn.fake_sr import FakeSR
from srwm.nn.feed_forward import FeedForward
from srwm.nn.linear_attention import LinearAttention
from srwm.nn.recurrent_delta_net import RecurrentDeltaNet
from srwm.nn.self_modifying_titans import SelfModifyingTitans
from srwm.nn.sr_delta import SRDelta
from srwm.nn.srwm import SRWM
from srwm.nn.stack import Stack

__all__ = [
    "SRWM",
    "DeltaCDE",
    "DeltaDelta",
    "DeltaNet",
    "DeltaRNN",
    "FakeSR",
    "FeedForward",
    "LinearAttention",
    "RecurrentDeltaNet",
    "Residual",
    "SRDelta",
    "SelfModifyingTitans",
    "Stack",
    "maps",
]
