"""Rows of a published comparison, for exercise 11.2.

Source: Hugging Face's PEFT, `method_comparison/MetaMathQA/results`, the files of June 2025 (read at commit 0a179c1;
LoRA of rank 64 at 18e07f1, DoRA at 9bb1ae7), and DoRA's of January 2026 (52903c8: newer libraries, another revision
of the questions' data set). All: Llama-3.2-3B, 5,000 steps of 4 examples, AdamW with weight decay 0.1 (full fine-tuning
with AdamW's default), gradients clipped at 1, adapters on q and v, seed 0.
"""

from lora_course.drawing.plots import table

QUESTIONS = 1319  # the test set of GSM8K


def _row(when: str, method: str, rank: int, alpha: float | None, rate: float, trained: int, right: int) -> dict:
    row = {"method": method, "rank": rank, "alpha": alpha, "rate": rate, "accuracy": right / QUESTIONS}
    return row | {"run": when, "trained": trained, "right": right}


JUNE, JANUARY = "June 2025", "January 2026"
PUBLISHED = {
    "LoRA, rank 32": _row(JUNE, "LoRA", 32, 64, 1e-4, 9_175_040, 636),
    "LoRA, rank 64": _row(JUNE, "LoRA", 64, 128, 1e-4, 18_350_080, 645),
    "rsLoRA, rank 64": _row(JUNE, "rsLoRA", 64, 64, 1e-4, 18_350_080, 699),
    "DoRA, rank 32": _row(JUNE, "DoRA", 32, 64, 1e-4, 9_289_728, 636),
    "DoRA again": _row(JANUARY, "DoRA", 32, 64, 1e-4, 9_289_728, 652),
}
# Seconds of training in 5,000 steps of rank 32: the sum of "train time" in the two files of June, on an NVIDIA L40S.
SECONDS = {"LoRA": 619.3, "DoRA": 969.4}
FULL = _row(JUNE, "full fine-tuning", 0, None, 1e-5, 3_212_749_824, 660)


def published_table() -> None:
    """Show the rows as they were published."""
    rows = [
        [name, row["run"], row["alpha"], f"{row['rate']:g}", row["trained"], f"{row['right']} ({row['accuracy']:.1%})"]
        for name, row in (PUBLISHED | {FULL["method"]: FULL}).items()
    ]
    table(["method", "run", "alpha", "rate", "numbers trained", f"right of {QUESTIONS:,}"], rows)
