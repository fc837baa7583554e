"""The checks of notebook 00, Start here."""

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["adapter_numbers", "beside", "weight_gigabytes"]

adapter_numbers = Exercise(
    "0.1",
    lambda in_features, out_features, rank: rank * (in_features + out_features),
    [(256, 256, 8), (256, 1024, 8), (1024, 256, 3), (5, 7, 1)],
    {
        "this is the size of W itself. The adapter stores A and B, and never their product.": lambda i, o, r: i * o,
        "this counts A alone. B, of shape (out_features, rank), is trained too.": lambda i, o, r: r * i,
        "this counts B alone. A, of shape (rank, in_features), is trained too.": lambda i, o, r: r * o,
        "this multiplies the sizes of A and B. They stand side by side: add them.": lambda i, o, r: r * i * r * o,
    },
)

weight_gigabytes = Exercise(
    "0.2",
    lambda parameters, bits: parameters * bits / 8 / 1e9,
    [(7e9, 16), (65e9, 4.127), (3_356_160, 32)],
    {
        "this counts bits. Eight bits make one byte.": lambda p, b: p * b / 1e9,
        "this divides by 2**30, which gives gibibytes. A gigabyte (GB) is 10**9 bytes.": lambda p, b: p * b / 8 / 2**30,
        "this counts bytes. A gigabyte is 10**9 of them.": lambda p, b: p * b / 8,
    },
)
