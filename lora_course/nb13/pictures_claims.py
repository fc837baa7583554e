"""The sentences of notebook 13, one a row, and the one rule that turns their numbers into a verdict.

A sentence is tried in several settings, each of which gives a number, or the interval in which one lies. A setting
holds if all of that lies within the sentence's bounds, fails if all of it lies outside, and otherwise cannot tell.
Where all settings say one thing a control is needed: a setting in which the same measurement says the other. The
numbers come from `lab_measured` and `lab_trained`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import inf

from lora_course.nb13 import lab_measured as measured
from lora_course.nb13 import lab_trained as trained
from lora_course.nb13.lab_measured import Interval, Numbers

TRUE, FALSE, DEPENDS = VERDICTS = ("true", "false", "depends")  # what a reader can mark
SAID = {True: "holds", False: "fails", None: "cannot tell"}  # of one setting
HERE = "13_claims.ipynb"
HU = "Hu et al. 2021, arXiv 2106.09685"
DETTMERS = "Dettmers et al. 2023, arXiv 2305.14314"
NINE = "09_qlora_gpt.ipynb"


def holds(number: float | Interval, least: float, most: float) -> bool | None:
    """Whether a number lies within bounds. None: its interval lies on both sides of one, and cannot tell."""
    low, high = number if isinstance(number, tuple) else (number, number)
    if least <= low and high <= most:
        return True
    return False if high < least or low > most else None


def verdict(answers: Iterable[bool | None], says_any: bool = False) -> str:
    """What a sentence's settings say together. says_any: it speaks of all cases, so that one that fails is enough."""
    found = set(answers)
    if found == {True}:
        return TRUE
    if False in found and (says_any or True not in found):
        return FALSE
    return DEPENDS if False in found else SAID[None]


@dataclass(frozen=True)
class Claim:
    """A sentence, what it is measured by, and what is true instead."""

    sentence: str
    asks: str  # what the number is
    cases: Callable[[], Numbers]
    settings: str  # what they have in common
    corrected: str
    source: str
    link: str  # where the course measures it: a file and a heading
    form: str
    control: Callable[[], Numbers] | None = None  # one setting
    least: float = -inf  # what the sentence asks of the number
    most: float = inf
    says_any: bool = False

    @cached_property
    def numbers(self) -> Numbers:
        return self.cases()

    @cached_property
    def control_number(self) -> Numbers:
        return self.control() if self.control else {}

    def holds(self, number: float | Interval) -> bool | None:
        return holds(number, self.least, self.most)

    @property
    def asked(self) -> str:
        """For example "bits of the numbers that are multiplied: at most 8"."""
        return f"{self.asks}: " + (f"at most {self.most:g}" if self.most < inf else f"at least {self.least:,g}")

    @property
    def answers(self) -> list[bool | None]:
        return [self.holds(number) for number in self.numbers.values()]

    @property
    def verdict(self) -> str:
        return verdict(self.answers, self.says_any)

    @property
    def told(self) -> str:
        """For example "It held in 1 of 4 settings (one model), and 2 cannot tell."."""
        untold = f", and {self.answers.count(None)} cannot tell" if None in self.answers else ""
        return f"It held in {self.answers.count(True)} of {len(self.answers)} settings ({self.settings}){untold}."

    def shown(self, number: float | Interval) -> str:
        return " to ".join(map(self.form.format, number if isinstance(number, tuple) else (number,)))


CLAIMS = (
    Claim("LoRA writes an update as a product of two thin matrices, so its rank is at most r.",
        "rank of the update minus r", measured.excess_rank, "one layer, factors drawn at random",
        "Some papers write the factors in the other order: a convention. In both, x meets first what is r wide.",
        HU, f"{HERE}#1. How a verdict is made", "{:.0f}", measured.full_update_rank, most=0),
    Claim("Both are initialized with random values.",
        "share of numbers that are not zero, in the emptier factor",
        measured.random_shares, "two layers of our GPT",
        "A is random and B is zero. So nothing changes before the first step, and B learns first.",
        HU, "02_lora_numpy.ipynb#5. Where should A and B start?", "{:.2f}", measured.both_random, least=0.99),
    Claim("Because they are small, forward and backward pass take fewer operations.",
        "operations over those of full training",
        measured.operations_of_lora, "one layer, 512 by 512, r = 8",
        "Forward takes more. Backward saves the gradients of the weights: about half of it, and 30% of both together.",
        HU, "04_lora_torch.ipynb#8. What it costs and what it saves", "{:.3f}", most=0.99),
    Claim("It trains ten thousand times fewer parameters,",
        "parameters over trained ones", measured.times_fewer_trained, "counted",
        "On GPT-3, at rank 4 or less on two matrices. On all linears of a smaller model it is tens of times.",
        f"{HU}, abstract and section 4.2", "01_low_rank.ipynb#4. Counting", "{:,.0f}", least=9000),
    Claim("which cuts the memory of training to a third or less.",
        "memory of a step before over after", measured.less_in_a_step, "three models",
        "Freezing removes gradients and optimizer state. Weights and activations stay, so it depends on which of them "
        "was large.",
        f"{HU}, section 4.2", "08_memory.ipynb#4. The step, level by level", "{:.2f}", least=3),
    Claim("When the model answers, it adds no delay.",
        "products that a layer makes of an input", measured.products, "one layer",
        "Merged, the layer is one product, as before. Apart it is three. Two of them are small, but each has to start: "
        "how much time that takes is up to the machine.",
        f"{HU}, section 4.1: merged", "questions.md#24. Many adapters on one base: what do they cost?",
        "{:.0f}", most=1),
    Claim("In 100 steps it works on any task.",
        "share of right answers, where a coin gets one half",
        trained.right_answers, "two orders, 100 steps of our GPT, six seeds",
        "One task that fails is enough against 'any'. In mid-line, without the capital, six seeds cannot tell. It says "
        "nothing of longer training, nor of the paper's tasks: classification, queries, summaries.",
        f"{HU}: GLUE, WikiSQL, SAMSum", f"{HERE}#2. A task with right answers", "{:.2f}",
        trained.counted_answers, says_any=True, least=0.5),
    Claim("QLoRA goes further and stores every weight as a 4-bit integer.",
        "largest distance of two neighboring levels over the smallest",
        measured.unequal_gaps, "both 4-bit codes of bitsandbytes",
        "It stores an index into a table of 16 unequal numbers, and a constant for 64 of them: 4.127 bits. Embeddings, "
        "head and norms are not rounded.",
        f"{DETTMERS}, section 3", "06_nf4.ipynb#3. From weights to bytes and back", "{:.2f}",
        lambda: measured.unequal_gaps(("int4",)), says_any=True, most=1.01),
    Claim("Its products are in low precision (8 bits or fewer), too.",
        "bits of the numbers that are multiplied", measured.operand_bits, "one layer",
        "Each product decodes the weight first, and then takes as many operations as before. What decoding costs in "
        "time is measured in notebook 08.",
        DETTMERS, "08_memory.ipynb#5. Stored in 4 bits, multiplied in 16 or 32", "{:.0f}", measured.integer_bits,
        most=8),
    Claim("The trained adapter can be merged back into the 4-bit model.",
        "cosine of the update with what arrives",
        measured.kept_in_codes, "one layer of our GPT, its update as trained and made smaller",
        "A large update arrives. One of a few percent ends in the cells in which the weights were, and is lost. Four "
        "bits can hold it: added to the original weights, and then rounded, it arrives.",
        "asked most often: PEFT, issue 2321", f"{NINE}#6. Does training repair the rounding?", "{:.2f}", least=0.9),
)  # fmt: skip
