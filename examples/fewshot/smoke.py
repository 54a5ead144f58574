"""What ``--smoke`` makes of a run: all of its parts, in seconds, on data that are made here."""

from __future__ import annotations

from dataclasses import replace

from .settings import DataSet, Settings

_GREY: tuple[DataSet, ...] = ("glyphs", "omniglot")


def smoke(settings: Settings) -> Settings:
    """The same run with few and small of everything."""
    s = settings
    domains = len(s.data_sets)
    k_shot, future_shots = min(s.k_shot, 2), min(s.future_shots, 1)
    shots = k_shot + (future_shots if s.protocol == "bootstrapping" else 0)
    return replace(
        s,
        data=_made(s.data),
        second_data=None if s.second_data is None else _made(s.second_data),
        third_data=None if s.third_data is None else _made(s.third_data),
        root=None,
        second_root=None,
        third_root=None,
        encoder_from=None,
        image_size=28,
        normalise="none",
        k_shot=k_shot,
        future_shots=future_shots,
        max_trim=min(s.max_trim, s.n_way * k_shot - 1),
        n_layers=min(s.n_layers, 2),
        n_heads=min(s.n_heads, 4),
        d_model=min(s.d_model, 64),
        ff_factor=min(s.ff_factor, 2),
        encoder_channels=min(s.encoder_channels, 8),
        encoder_warmup_steps=min(s.encoder_warmup_steps, 2),
        encoder_warmup_classes=min(s.encoder_warmup_classes, 4 // domains * domains),
        feature_views=min(s.feature_views, 1),
        steps=min(s.steps, 4),
        batch_size=2 * s.accumulation,
        pools=min(s.pools, s.accumulation),
        pool_classes=s.n_way,
        pool_images=min(s.pool_images, shots + 1),
        queries=min(s.queries, 2),
        report_every=1,
        validate_every=min(s.validate_every, 2),
        validation_episodes=min(s.validation_episodes, 4),
        test_episodes=min(s.test_episodes, 8),
        test_queries=min(s.test_queries, 2),
    )


def _made(data: DataSet) -> DataSet:
    if data == "digits":
        return data
    return "glyphs" if data in _GREY else "textures"
