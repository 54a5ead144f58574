from pathlib import Path

import pytest

from examples.fewshot.settings import Settings

HARD = {"hard_episodes": 0.5, "feature_views": 1, "pools": 0}
SEQUENTIAL = {"protocol": "sequential", "second_data": "textures", "pools": 0}
CONTINUAL = {"protocol": "continual", "second_data": "textures"}
NEEDS_HARD = "--hard-episodes needs --feature-views, --pools 0 and another protocol than .*, got "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_warmup_steps": -1}, "--encoder-warmup-steps must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0"),
        ({"max_minutes": 0.0}, "--max-minutes must be above 0"),
        ({"test_episodes": 1}, "--test-episodes must be at least 2, .* got 1"),
        ({"encoder_warmup_images": 1}, "--encoder-warmup-images must be at least 2"),
        ({"pool_classes": 4}, "--pool-classes must be at least --n-way .5., got 4"),
        ({"queries": 16}, "--queries must be at most .* = 10, got 16; raise --pool-images"),
        ({"pools": 3}, "--batch-size must be a multiple of --pools .3., got 32"),
        ({"accumulation": 5}, "--batch-size must be a multiple of --accumulation .5., got 32"),
        ({"accumulation": 2}, "--pools must be a multiple of --accumulation .2., got 1"),
        ({"feature_views": -1}, "--feature-views must be at least 0, got -1"),
        ({"feature_views": 2, "train_encoder": True}, "--feature-views 2 .* needs --no-train-encoder"),
        ({**HARD, "pools": 1}, NEEDS_HARD + "1, 1 and sync"),
        ({**HARD, "feature_views": 0}, NEEDS_HARD + "0, 0 and sync"),
        ({**HARD, **SEQUENTIAL}, NEEDS_HARD + "1, 0 and sequential"),
        ({**HARD, **CONTINUAL}, NEEDS_HARD + "1, 0 and continual"),
        ({**HARD, "hard_episodes": 1.5}, "--hard-episodes must be at most 1, got 1.5"),
        ({"n_heads": 7}, "--d-model must be a multiple of --n-heads .7., got 256"),
        ({"channels": 2}, "--channels must be 1 or 3, got 2"),
        ({"dropout": 1.0}, "--dropout must be below 1, got 1.0"),
        ({"input_gain": 0.0}, "--input-gain must be above 0"),
        ({"protocol": "bootstrapping"}, "--pool-images must be at least the 6 that are read .*, got 3"),
        ({"second_data": "textures"}, "--second-data belongs to --protocol sequential"),
        ({**SEQUENTIAL, "second_data": None}, "--second-data belongs to --protocol sequential"),
        ({"third_data": "digits"}, "--third-data belongs to --protocol continual, got digits with sync"),
        (
            {**CONTINUAL, "sequence_layout": "micro_batch"},
            "--sequence-layout belongs to --protocol sequential, got micro_batch with continual",
        ),
        ({**CONTINUAL, "queries": 11}, "--queries must be at most .* = 10, got 11"),
        (
            {**CONTINUAL, "third_data": "digits"},
            "--encoder-warmup-classes must be a multiple of 3, .* got 32",
        ),
        ({"second_root": Path("x")}, "--second-root needs --second-data"),
        ({"third_root": Path("x")}, "--third-root needs --third-data"),
        ({**SEQUENTIAL, "max_trim": 5}, "--max-trim must leave an image of the n_way . k_shot = 5, got 5"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=f"train: {message}"):
        Settings(**change).check()
