"""What ``--smoke`` makes of a run: all of its parts, in seconds, on data that are made here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .settings import Settings

# How many are left at most.
_MOST = {
    1: ("future_shots", "feature_views"),
    2: (
        *("k_shot", "n_layers", "ff_factor", "encoder_warmup_steps"),
        *("validate_every", "queries", "test_queries"),
    ),
    4: ("n_heads", "steps", "validation_episodes"),
    8: ("encoder_channels", "test_episodes"),
    64: ("d_model",),
}
# What is made here, in the place of other data: grey pictures or coloured ones.
_MADE = {None: None, "digits": "digits", "glyphs": "glyphs", "omniglot": "glyphs"}


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything."""
    changes: dict[str, Any] = dict.fromkeys(("root", "second_root", "third_root", "encoder_from"))
    for name in ("data", "second_data", "third_data"):
        changes[name] = _MADE.get(getattr(settings, name), "textures")
    for most, names in _MOST.items():
        changes |= {name: min(getattr(settings, name), most) for name in names}
    s = replace(settings, **changes)
    domains = len(s.data_sets)
    shots = s.k_shot + (s.future_shots if s.protocol == "bootstrapping" else 0)
    return replace(
        s,
        image_size=28,
        normalise="none",
        max_trim=min(s.max_trim, s.n_way * s.k_shot - 1),
        encoder_warmup_classes=min(s.encoder_warmup_classes, 4 // domains * domains),
        batch_size=2 * s.accumulation,
        pools=min(s.pools, s.accumulation),
        pool_classes=s.n_way,
        pool_images=min(s.pool_images, shots + 1),
        report_every=1,
    )
