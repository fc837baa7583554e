"""One ruler or many: the shipped base in int4, its constants shared in five ways (notebook 05).

Each way is drawn four times. Rows and blocks begin a quarter of themselves later; one ruler for a whole layer has no
begin, so it is up to 3% longer or shorter. A clipped ruler has the length with the least error of the weights, or is
longer: of four lengths, 1.5 times that one adds the least loss.
"""

from torch import Tensor

from lora_course.running.scoreboard import begun_later, measured
from lora_edu.rounding import best_length, round_clipped, round_in_blocks

WAYS = ("one absmax a layer", "one, clipped", "clipped for the loss", "an absmax a row", "blocks of 64")
DRAWS = (0.97, 0.99, 1.01, 1.03)  # the ruler's length, over the one that is meant
LONGER = (1.25, 1.5, 2.0)  # a clipped ruler that costs more error and cuts fewer weights
SHARED_ARMS = {f"{way}, draw {draw}": {"way": way, "draw": draw} for way in WAYS for draw in range(4)} | {
    f"one, clipped, {longer} times as long": {"way": "one, clipped", "longer": longer} for longer in LONGER
}


def shared_loss(way: str, draw: int | None = None, longer: float = 1.0) -> dict:
    """Round the linear layers in the blocks to int4.

    way: one of WAYS says who shares a constant; draw: 0 to 3; longer: stretches the clipped ruler, to the largest
    weight at most. Returns the errors of weights and outputs, and the loss in nats per byte on held-out speeches.
    """
    stretched = {"one, clipped": longer, "clipped for the loss": 1.5}
    length = 1 if draw is None else DRAWS[draw]

    def change(weight: Tensor) -> Tensor:
        if way == "one absmax a layer":
            return round_clipped(weight, 4, length)
        if way in stretched:
            longest = min(stretched[way] * best_length(weight, 4), 1)
            return round_clipped(weight, 4, longest * length)
        size = weight.shape[1] if way == "an absmax a row" else 64
        return begun_later(lambda flat: round_in_blocks(flat, 4, size), (draw or 0) * size // 4)(weight)

    return measured(change)
