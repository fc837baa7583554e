"""The sentences of notebook 13, and the rule that turns numbers into a verdict.

A sentence is tried in several settings, each of which gives a number, or the interval of one. It is true if it holds
in all of them, false if it fails in all, and otherwise it depends. A control is a setting in which the number must fall
on the other side: it shows that the measurement could have come out differently. The numbers come from `nb13_measured`
and `nb13_trained`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from lora_edu.experiments import nb13_measured as measured
from lora_edu.experiments import nb13_trained as trained
from lora_edu.experiments.nb13_measured import Numbers
from lora_edu.experiments.nb13_trained import Interval, Intervals

TRUE, FALSE, DEPENDS = VERDICTS = ("true", "false", "depends")  # what a reader can mark
SAID = {True: "holds", False: "fails", None: "cannot tell"}  # of one setting
HERE = "13_claims.ipynb"
HU = "Hu et al. 2021, arXiv 2106.09685"
DETTMERS = "Dettmers et al. 2023, arXiv 2305.14314"
BETWEEN = "{0.low:+.4f} to {0.high:+.4f}"  # how an interval is shown


def verdict(numbers: Numbers | Intervals, holds: Callable) -> str:
    """True if a sentence holds in all settings, false if it fails wherever that can be told, else depends.

    holds: number -> True, False, or None where the interval of a number cannot tell.
    """
    answers = {holds(number) for number in numbers.values()}
    fails = answers in ({False}, {False, None})  # None: it cannot be told
    return TRUE if answers == {True} else FALSE if fails else DEPENDS


def as_well(gap: Interval, most: float = trained.TOLERANCE) -> bool | None:
    """Whether a loss is at most so much above another. None: the interval lies on both sides, and cannot tell."""
    if gap.high <= most:
        return True
    return False if gap.low > most else None


@dataclass(frozen=True)
class Claim:
    """A sentence, what it is measured by, and what is true instead."""

    letter: str
    short: str
    sentence: str
    asks: str  # what the number is, and what the sentence asks of it
    cases: Callable[[], Numbers | Intervals]
    holds: Callable[..., bool | None]
    control: Callable[[], Numbers | Intervals]  # one setting
    control_holds: bool
    corrected: str
    source: str
    file: str
    heading: str
    form: str = "{:.3g}"
    ours: str = ""  # where all settings are ours: which ones

    @cached_property
    def numbers(self) -> Numbers | Intervals:
        return self.cases()

    @cached_property
    def control_number(self) -> tuple[str, float | Interval]:
        return next(iter(self.control().items()))

    @property
    def verdict(self) -> str:
        return verdict(self.numbers, self.holds)

    @property
    def kept(self) -> int:
        """In how many settings it holds."""
        return sum(bool(self.holds(number)) for number in self.numbers.values())

    @property
    def told(self) -> str:
        """The verdict with its settings, for example "It held in 0 of 4 settings, all ours: one processor."."""
        count = f"It held in {self.kept} of {len(self.numbers)} settings"
        told = f"{count}, all ours: {self.ours}." if self.ours else f"{count}."
        untold = sum(self.holds(number) is None for number in self.numbers.values())
        return f"{told} In {untold} three seeds cannot tell." if untold else told

    @property
    def link(self) -> str:
        """Where it is measured: the file, and the anchor that JupyterLab gives a heading."""
        return f"{self.file}#{self.heading.replace(' ', '-')}"

    def shown(self, number: float | Interval) -> str:
        return self.form.format(number)


CLAIMS = (
    Claim("a", "a product of thin matrices",
        "LoRA writes the update of a weight as a product of two thin matrices, so its rank is at most r.",
        "rank of the update minus r: at most 0",
        measured.excess_rank, lambda n: n <= 0, measured.full_update_rank, False,
        "Some papers write the factors in the other order: a convention. In both, x meets first what is r wide.",
        HU, HERE, "2. How a verdict is made", "{:.0f}"),
    Claim("b", "both at random",
        "Both are initialized with random values.",
        "share of numbers that are not zero, in the emptier factor: all",
        measured.random_shares, lambda n: n > 0.99, measured.both_random, True,
        "A is random and B is zero. So nothing changes before the first step, and B learns first.",
        HU, "02_lora_numpy.ipynb", "5. Where should A and B start?", "{:.0%}"),
    Claim("c", "fewer operations",
        "Because they are small, forward and backward pass take fewer operations.",
        "operations over those of full training: below 1",
        measured.operations_of_lora, lambda n: n < 0.995,
        lambda: {"rounding alone, forward": measured.operations_of_nf4()["forward"]}, False,
        "Forward takes more. Backward saves the gradients of the weights, about half of it: a third of the whole step.",
        HU, "04_lora_torch.ipynb", "8. What it costs and what it saves", "{:.3f}"),
    Claim("d", "10,000 times fewer",
        "It trains ten thousand times fewer parameters,",
        "parameters over trained ones: 9,000 or more",
        measured.times_fewer_trained, lambda n: n >= 9000, measured.all_trained, False,
        "On GPT-3, at rank 4 or less on two matrices. On all linears of a smaller model it is tens of times.",
        f"{HU}, abstract and section 4.2", "01_low_rank.ipynb", "4. Counting", "{:,.0f}"),
    Claim("k", "a third of the memory",
        "which cuts the memory of training to a third or less,",
        "memory before over memory after: 3 or more",
        measured.times_less_memory, lambda n: n >= 3, measured.nothing_changed, False,
        "Freezing removes gradients and optimizer state, 4 bits shrink weights, and activations stay. What a step "
        "saves depends on which of them was large.",
        f"{HU}: 1.2 TB to 350 GB", "08_memory.ipynb", "4. The step, level by level"),
    Claim("h", "matches full fine-tuning",
        "and matches full fine-tuning in 100 steps of our GPT.",
        f"loss above that of full fine-tuning, nats a byte, all of its interval: at most {trained.TOLERANCE}",
        trained.lora_against_full, as_well, trained.two_that_match, True,
        "It stays behind, each at its own rate. Rank 64 ends worse than full training of the same matrices with each "
        "seed; whether by more than the tolerance, three seeds cannot tell. Elsewhere the two could not be told apart: "
        "on Llama-3.2-3B, 645 and 660 right of 1,319 (notebook 11).",
        "Biderman et al. 2024, arXiv 2405.09673", "09_qlora_gpt.ipynb",
        "8. Is it as good as LoRA on unrounded weights?", BETWEEN, "100 steps of one model"),
    Claim("s", "rank grows with the model",
        "The larger the model, the larger the rank that it needs.",
        "share of a larger rank's gain that a rank keeps, small model minus large one: above 0.02",
        trained.lost_in_the_larger, lambda n: n > 0.02, trained.lost_at_a_lower_rate, True,
        "Between these two models even the sign depends on the two ranks that one compares. A lower learning rate "
        "alone looks like a larger model, and one pair of models makes no law.",
        f"{HU}, table 6; {DETTMERS}: on all linear layers, r hardly matters", "10_where_and_how_much.ipynb",
        "3. Which rank, and at which rate?", "{:+.2f}", "one pair of models"),
    Claim("l", "any task",
        "It works on any task.",
        "on one task of ours, share of right answers above a rival's, in the worst of three seeds: above 0",
        trained.above_rivals, lambda n: n > 0, trained.counted_above_half, True,
        "One task is enough to doubt 'any', and says nothing of other tasks. On this one it depends on the question "
        "and on the rival: counting pairs of words did better. The paper tested classification, queries and summaries.",
        f"{HU}: GLUE, WikiSQL, SAMSum", HERE,
        "4. A task with right answers", "{:+.2f}", "one task, three seeds"),
    Claim("e", "4-bit integers",
        "QLoRA goes further and stores every weight as a 4-bit integer:",
        "largest distance of two neighboring levels over the smallest: 1, as for integers",
        measured.unequal_gaps, lambda n: n < 1.001, lambda: measured.unequal_gaps(("int4",)), True,
        "It stores an index into a table of 16 unequal numbers, and a constant for 64 of them: 4.127 bits. Embeddings, "
        "head and norms are not rounded.",
        f"{DETTMERS}, section 3", "06_nf4.ipynb", "3. From weights to bytes and back"),
    Claim("i", "precise where it matters",
        "its uneven levels keep the most important weights the most precise.",
        "absolute error of these weights over that of all: below 0.9",
        measured.precision_of_important, lambda n: n < 0.9, measured.precision_if_scaled, True,
        "The largest weight of a block is exact, one in 64, and the six next to it have the largest error. The code "
        "knows neither inputs nor gradients; AWQ looks at inputs.",
        "Lin et al. 2023 (AWQ), arXiv 2306.00978", HERE, "5. All fifteen", ours="one model"),
    Claim("f", "cheaper products",
        "Its products are in low precision and therefore cheaper,",
        "time over that of the same in float32, on one processor: below 0.8",
        trained.products_over_float32, lambda n: n < 0.8, trained.integers_over_float32, True,
        "The same product in 16 or 32 bits, and decoding on top: slower for few tokens, as fast for many. A product "
        "that really is of 8-bit integers is cheaper here. Formats that a processor multiplies directly: the page of "
        "questions.",
        DETTMERS, "08_memory.ipynb", "5. Stored in 4 bits, multiplied in 16 or 32", "{:.2f}", "one processor"),
    Claim("j", "scaling makes up for it",
        "and the scaling factor and the careful start of A and B make up for what rounding loses.",
        "distance to the original weight, over that without an adapter: below 0.99",
        measured.error_at_start, lambda n: n < 0.99, measured.error_of_repair, True,
        "B = 0, so at the start the error is the rounding error whatever alpha is. Training lowers the loss, not this "
        "distance. Starts that do repair some of it have names: LoftQ, PiSSA.",
        "Li et al. 2023 (LoftQ), arXiv 2310.08659", "09_qlora_gpt.ipynb",
        "6. What it learned, and what it did not repair", "{:.3f}"),
    Claim("m", "keeps the performance",
        "In the end, QLoRA does as well as LoRA on unrounded weights.",
        f"loss above that of LoRA, nats a byte, all of its interval: at most {trained.TOLERANCE}",
        trained.qlora_against_lora, as_well, trained.two_bits_left, False,
        "At 4 bits it learns all plays as well; elsewhere three seeds cannot tell. On what the base knew it ends worse "
        "for each seed, by about what rounding alone had cost, or more.",
        f"{DETTMERS}, table 3", "09_qlora_gpt.ipynb", "8. Is it as good as LoRA on unrounded weights?", BETWEEN,
        "100 steps of one model"),
    Claim("r", "merged into 4 bits",
        "The trained adapter can be merged back into the 4-bit model,",
        "cosine of the update with what arrives: 0.9 or more",
        measured.kept_in_codes, lambda n: n >= 0.9, lambda: measured.kept_in_codes((), again=False), True,
        "A large update arrives. One of a few percent ends in the cells in which the weights were, and is lost. Four "
        "bits can hold it: added to the original weights, and then rounded, it arrives.",
        "asked most often: PEFT, issue 2321", "09_qlora_gpt.ipynb",
        "7. Save it, and where can it be merged?", "{:.2f}"),
    Claim("p", "suited to the edge",
        "so that the whole is made for phones and other small devices.",
        "QLoRA over the 32-bit way: below 1",
        trained.on_a_small_device, lambda n: n < 0.95, measured.nothing_changed, False,
        "It takes fewer bytes. It is slower for one token at a time unless the device decodes inside its products. By "
        "how much hangs on how busy the machine is.",
        DETTMERS, HERE, "5. All fifteen", "{:.2g}", "one model, one processor"),
)  # fmt: skip
