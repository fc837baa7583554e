"""Assignment 2: exercise 2.1, the layer: right answers, and edits of the notebook's that are wrong; and all of them."""

from classroom.graders.a2_model import DIAL, INJECT
from classroom.graders.a2_runs import FILE, RUNS
from classroom.solutions import Answer, Solutions
from lora_edu import LoRALinear

FREEZES, SCALING = "base.requires_grad_(False)", "alpha / rank**c.exponent"
DRAWN, ZEROS = (
    "c.std * torch.randn(base.in_features, rank, generator=generator)",
    "torch.zeros(rank, base.out_features)",
)
ZERO_DOWN = f"{DRAWN} -> torch.zeros(base.in_features, rank)"
DROPS, NEVER = "nn.Dropout(dropout)", 'c.dropout_after == "down" -> False & c.dropout_after == "up" -> False'
EINSUM = (
    'x @ self.down -> torch.einsum("...i,ir->...r", x, self.down) & '
    'self.scaling * (low @ self.up) -> torch.einsum("...r,ro->...o", self.scaling * low, self.up) & '
    f"{DRAWN} -> torch.normal(0.0, c.std, (base.in_features, rank), generator=generator)"
)
FUNCTIONAL = (
    "self.base(x) + change -> F.linear(x, self.base.weight, self.base.bias) + change & "
    f"x @ self.down -> F.linear(x, self.down.T) & {ZEROS} -> base.weight.new_zeros(rank, base.out_features) & "
    f"{DROPS} -> lambda x: F.dropout(x, dropout, self.training)"
)
GENERATOR = "generator = torch.Generator().manual_seed(seed)"

LINES, DROPOUT, START = "notebook 04, section 1", "notebook 04, section 5", "notebook 02, section 5"
OURS = "notebook 04, section 1, for the paper's; exercise 2.1 for this one"

LAYER = Solutions(
    reference=Answer("a2_lora_torch", "layer"),
    right={"functional": FUNCTIONAL, "einsum": EINSUM},
    wrong=[
        ("plain tensors", f"nn.Parameter({DRAWN}) -> ({DRAWN}).requires_grad_() & "
         f"nn.Parameter({ZEROS}) -> {ZEROS}.requires_grad_()", 7,
         "down and up are plain tensors: no optimizer finds them, and no file. Wrap them in nn.Parameter.", LINES),
        ("not frozen", f"{FREEZES} -> base", 7),
        ("both zero", ZERO_DOWN, 6,
         "both factors start at zero. Each one's gradient is multiplied by the other: nothing would ever move.", START),
        ("only up", "generator=generator)) -> generator=generator), requires_grad=False)", 7),
        ("alpha / rank", f"{SCALING} -> alpha / rank", 6,
         "the branch is scaled by alpha / rank. Here the rank has an exponent, as in exercise 2.1.", OURS),
        ("transposed", "torch.randn(base.in_features, rank, -> torch.randn(rank, base.in_features, & "
         f"{ZEROS} -> torch.zeros(base.out_features, rank) & x @ self.down -> x @ self.down.T & "
         "low @ self.up -> low @ self.up.T", 5,
         "the factors are (rank, in) and (out, rank), as in the notebook. Here down is (in, rank), up (rank, out).",
         "notebook 02, section 2, for the two orientations"),
        ("dropout on the base", "self.base(x) -> self.base(self.dropout(x))", 7,
         "dropout is on the path of the base as well. It belongs to the branch: the base must see the whole x.",
         DROPOUT),
        ("dropout in evaluation", f"{DROPS} -> lambda x: F.dropout(x, dropout)", 5),
        ("dropout on the input", f"{NEVER} & low = x @ -> low = self.dropout(x) @", 7,
         "dropout acts on the input of the branch, as in the notebook. Here it acts after c.dropout_after.", DROPOUT),
        ("dropout at the other factor", 'after == "down" -> after != "down" & after == "up" -> after != "up"', 7),
        ("dropout does not rescale", f"{DROPS} -> "
         "lambda x: x * (torch.rand_like(x) >= dropout) if self.training else x", 7),
        ("product formed", "low = x @ -> if not self.training:\n"
         "            return self.base(x) + x @ (self.scaling * self.down @ self.up)\n        low = x @", 7),
        ("base without gradient", "self.base(x) + -> self.base(x).detach() +", 7),
        ("bias forgotten", "self.base(x) -> F.linear(x, self.base.weight)", 5,
         "the bias of the base is missing: call the base itself.", LINES),
        ("update alone", "self.base(x) + change -> change", 4,
         "this is the branch alone. Add it to what the base computes.", LINES),
        ("changes its input", "low = x @ -> y = self.base(x); x *= self.scaling; low = x @ & "
         "self.scaling * (low -> (low & return self.base(x) + -> return y +", 4),
        ("global seed", f"{GENERATOR} -> generator = None; torch.manual_seed(seed)", 7,
         "this moves the random numbers of everybody else: it sets torch's seed, or draws with it, as nn.Linear does "
         "when it is built. Use a generator of your own, torch.Generator.",
         "notebook 02, section 3, where a generator is passed on"),
        ("around a copy", f"{FREEZES} -> copy.deepcopy(base).requires_grad_(False)", 6),
        ("calls lora_edu", lambda c: lambda *case: LoRALinear(*case[:-1]), 0),
    ],
)  # fmt: skip

SOLUTIONS = {"2.1": LAYER, "2.2": INJECT, "2.3": DIAL, "2.4": FILE, "2.5": RUNS}
