"""What ``--smoke`` makes of a run: all of its parts, in seconds."""

from __future__ import annotations

from dataclasses import replace

from .settings import Settings


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything but words, whose lengths the task decides."""
    s = settings
    return replace(
        s,
        curriculum=min(s.curriculum, 2),
        n_layers=min(s.n_layers, 2),
        n_heads=min(s.n_heads, 4),
        d_model=min(s.d_model, 32),
        d_ff=min(s.d_ff, 32),
        steps=min(s.steps, 4),
        batch_size=2 * s.accumulation,
        report_every=1,
        validate_every=min(s.validate_every, 2),
        validation_words=min(s.validation_words, 4),
        test_words=min(s.test_words, 4),
    )
