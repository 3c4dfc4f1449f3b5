"""What a compile leaves behind."""

from trtasr.pipeline.record import changed_values
from trtasr.recipe import Recipe, override


def test_every_changed_value_is_in_the_command_line() -> None:
    recipe = override(
        Recipe("x", "y"),
        [
            'engine.compute_capability="8.6"',
            'quantization.exclude=["/a b/*"]',
            "engine.quantize_depthwise=true",
            "calibration.seed=3",
        ],
    )
    changes = changed_values(recipe)
    assert len(changes) == 4
    assert override(Recipe("x", "y"), changes) == recipe
