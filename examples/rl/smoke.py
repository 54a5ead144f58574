"""What ``--smoke`` makes of a run: all of its parts, in seconds."""

from __future__ import annotations

from dataclasses import replace

from .settings import Settings

_UPDATES = 4
_MOST = {"n_layers": 2, "n_heads": 4, "d_model": 32, "d_ff": 32, "lstm_size": 32, "n_features": 32}


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything."""
    s = settings
    batch_size, unroll = min(s.batch_size, 4), min(s.unroll, 8)
    return replace(
        s,
        **{name: min(getattr(s, name), most) for name, most in _MOST.items()},
        channels=tuple(min(channels, 4) for channels in s.channels),
        scale=1,
        batch_size=batch_size,
        environments=None if s.environments is None else max(batch_size, len(s.games)),
        unroll=unroll,
        bptt=None if s.bptt is None else min(s.bptt, unroll),
        frames=min(s.frames, _UPDATES * batch_size * unroll),
        report_every=1,
    )
