import pytest

from examples.rl.settings import Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": -1}, "--levels must be at least 0, got -1"),
        ({"input_gain": 0.0}, "--input-gain must be above 0"),
        ({"epsilon": 0.0}, "--epsilon must be above 0"),
        ({"reward_clip": 0.0}, "--reward-clip must be above 0"),
        ({"rho_bar": 0.0}, "--rho-bar must be above 0"),
        ({"alpha": 1.0}, "--alpha must be below 1, got 1.0"),
        ({"discount": 1.01}, "--discount must be at most 1, got 1.01"),
        ({"vtrace_lambda": 2.0}, "--vtrace-lambda must be at most 1, got 2.0"),
        ({"games": ()}, "--games must name at least one game"),
        ({"n_heads": 7}, "--d-model must be a multiple of --n-heads .7., got 128"),
        ({"environments": 16}, "--environments must be at least --batch-size .32., got 16"),
        ({"games": ("maze",) * 33}, "--environments must be at least the number of --games .33., got 32"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change).check()


def test_what_may_be_zero_or_one_or_without_bound():
    Settings(levels=0, clip=0.0, discount=1.0, entropy_cost=0.0, rho_bar=float("inf")).check()
    Settings(core="lstm", d_model=100, n_heads=7, beta_init=-1.0).check()
