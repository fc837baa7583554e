"""One page of what was measured: each row beside its peer of the same run, with goal, ratio and verdict.

    make bench                                                (or: python benchmarks/page.py; some minutes)
    python benchmarks/page.py --only quantize,step            these parts; the others stay as they were measured
    python benchmarks/page.py --notebooks                     the notebooks too: minutes more
    python benchmarks/page.py --readme                        keep what was measured, and write the READMEs' tables

Every part is stored in build/bench.json as it ends, so a stopped run loses one part; a part that cannot run here, for
lack of a Chromium for example, says so. Parts of another machine or of other versions are never put together. All runs
with one thread, and a time is what it took of the processor. `parts.py` measures; `quantization.py` has the details.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import RESULTS, facts, in_words, median_ratio
from parts import BNB, FRESH, GPT2, GPT2_CACHE, LAYER, PARTS, REUSED, ROOT

from lora_edu.records import staging

MEASURED, STORED = ROOT / "build" / "bench.json", RESULTS / "bench.json"
PAGES = {ROOT / "README.md": True, ROOT / "benchmarks" / "README.md": False}  # page -> whether it has four rows alone
MARKS = ("<!-- bench -->\n", "<!-- end of bench -->\n")
BUSY = 2  # the load from which on a number without another reason may be the fault of other programs
HEAD = ("what", "ours", "peer", "its time", "ratio", "goal", "verdict")


@dataclass(frozen=True)
class Row:
    """One line of the page. ours, peer: names of a part's times; without a goal, a row says whether it won.

    goal: at most so many times the peer's time; with `seconds`, at most so many seconds; with `share`, such a share;
    with `in_bytes`, so many bytes.
    reason: why the goal is missed, where that is known. first: a row of the project's first page.
    """

    part: str
    what: str
    ours: str
    peer: str = ""
    goal: float | None = None
    seconds: bool = False
    share: bool = False
    in_bytes: bool = False
    size: int = 0
    reason: str = ""
    first: bool = False

    def cells(self, parts: dict) -> tuple[str, ...]:
        """As text, in the order of HEAD."""
        stored = parts.get(self.part, {"skipped": f"--only {self.part} measures it"})
        told = "{:.0%}".format if self.share else "{:,.0f} bytes".format if self.in_bytes else duration
        alone = self.seconds or self.share or self.in_bytes
        goal = "" if self.goal is None else told(self.goal) if alone else f"{self.goal:g} x"
        if "times" not in stored:
            return self.what, "", self.peer, "", "", goal, f"not measured: {stored['skipped']}"
        times = stored["times"]
        ours, peer = (f"{name} {self.size}".removesuffix(" 0") for name in (self.ours, self.peer))
        value = statistics.median(times[ours])
        ratio = median_ratio(times, ours, peer) if self.peer else None
        theirs = told(statistics.median(times[peer])) if self.peer else ""
        met = (value if alone else ratio) <= (1 if self.goal is None else self.goal)
        words = ("won", "lost") if self.goal is None else ("met", "missed")
        busy = f"measured at load {stored['load']}" if (stored.get("load") or 0) >= BUSY else ""
        verdict = words[0] if met else ": ".join(filter(None, (words[1], self.reason or busy)))
        return self.what, told(value), self.peer, theirs, "" if ratio is None else f"{ratio:.2f}", goal, verdict


def duration(seconds: float) -> str:
    return f"{seconds:,.{0 if seconds >= 9.95 else 1}f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


NEW_MEMORY = "most of the time goes into memory that is new"
LOOK_UP = "torch looks up one byte at a time, bitsandbytes 16 values in a register"
QLORA, THEIRS = "QLoRA", "QLoRA, PEFT + bitsandbytes"

ROWS = (
    Row("quantize", "quantize 4096 x 4096 to NF4", "quantize", BNB, 0.2, size=4096, first=True),
    Row("quantize", "quantize 512 x 512", "quantize", BNB, 0.2, size=512),
    Row("dequantize", "dequantize 4096 x 4096 into a reused buffer", REUSED, BNB, 0.6, size=4096),
    Row("dequantize", "dequantize 4096 x 4096, fresh output", FRESH, BNB, size=4096, reason=NEW_MEMORY),
    Row(
        "dequantize",
        "dequantize 512 x 512 into a reused buffer",
        REUSED,
        BNB,
        1.5,
        size=512,
        reason=LOOK_UP,
        first=True,
    ),
    Row("layer", "a 4-bit layer 4096 x 4096, forward and backward", LAYER, BNB, 0.8, size=4096, first=True),
    Row("step", "a QLoRA step, 2,048 tokens", QLORA, THEIRS, 1.0, first=True),
    Row("step", "the same beside a LoRA step", QLORA, "LoRA", 1.1),
    Row("sampling", "generate 200 bytes, keys and values kept", "ours", GPT2_CACHE, 1.0),
    Row("sampling", "the same, the model reads all again for each", "plain", GPT2, 1.0),
    Row("import", "import lora_edu", "import lora_edu", "import torch", 0.1),
    Row("import", "import every name of lora_edu", "every name", "import torch", 1.3),
    Row("sliders", "key press to picture, slowest of four sliders: median", "slowest median", "", 0.065, True),
    Row("sliders", "the same, 95% of the presses", "slowest 95%", "", 0.1, True),
    Row("notebooks", "notebooks 00 to 09", "00 to 09", "", 330, True),
    Row("notebooks", "notebook 09", "09", "", 150, True),
    Row("notebooks", "the slowest of 00 to 08", "slowest of 00 to 08", "", 60, True),
    Row("book", "build the book", "book", "", 30, True),
    Row("dial", "the model in the book's page: a byte", "page, a byte", "torch, a byte"),
    Row("dial", "the same: two lines of surprise", "page, two lines", "torch, two lines"),
    Row("dial", "key on the dot to the painted frame: median", "key to frame, median", "", 0.06, True),
    Row("dial", "the same, 95% of the presses", "key to frame, 95%", "", 0.1, True),
    Row("dial", "the dot works after", "ready", "", 1.0, True),
    Row("dial", "on the wire until the dot works", "on the wire", "", 50e3, in_bytes=True),
    Row("checks", "solutions with one slip that are told no step", "one slip", "", 0.05, share=True),
    Row("checks", "the same with two slips", "two slips", "", 0.2, share=True),
    Row("inspect", "inspect an adapter of a 7B model, rank 16", "inspect", "", 10, True),
)


def measure(part: str, rounds: int) -> dict:
    """The times of one part, with the day and how busy the machine was; or why there are none."""
    timed = not any(row.share for row in ROWS if row.part == part)  # a share is the same on a busy machine
    load = round(os.getloadavg()[0], 1) if timed and hasattr(os, "getloadavg") else None
    try:
        times = PARTS[part](rounds)
    except (Exception, SystemExit) as error:  # one part that fails does not cost the others
        return {"skipped": (str(error) or type(error).__name__).splitlines()[0]}
    rounded = {name: [float(f"{value:.4g}") for value in values] for name, values in times.items()}
    return {"day": time.strftime("%Y-%m-%d"), "load": load, "times": rounded}


def load(here: dict) -> dict:
    """What was measured before on this machine with these versions, or a beginning."""
    for path in (MEASURED, STORED):
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if all(stored[name] == value for name, value in here.items()):
                return stored
    return {**here, "parts": {}}


def save(results: dict, path: Path) -> None:
    results["rows"] = [dict(zip(HEAD, row.cells(results["parts"]), strict=True)) for row in ROWS]
    path.parent.mkdir(exist_ok=True)
    with staging(path) as new:
        new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def notes(results: dict) -> str:
    measured = [part for part in results["parts"].values() if "times" in part]
    days = sorted({part["day"] for part in measured})
    loads = [part["load"] for part in measured if part["load"] is not None]
    busy = f", load {min(loads)} to {max(loads)}" if loads else ""
    return f"{in_words(results)} Measured {' to '.join(dict.fromkeys((days[0], days[-1])))}{busy}." if days else ""


def printed(results: dict) -> str:
    """The page as text of fixed width."""
    rows = [HEAD, *(row.cells(results["parts"]) for row in ROWS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([notes(results), "", lines[0], "-" * max(map(len, lines)), *lines[1:]])


def with_table(page: str, results: dict, first: bool) -> str:
    """A README with the table written anew, between its two marks. first: its four rows for the first page alone."""
    chosen = [row for row in ROWS if row.first or not first]
    rows = [HEAD, ("-",) * len(HEAD), *(row.cells(results["parts"]) for row in chosen)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| - " * len(HEAD), "|-" * len(HEAD))
    before, rest = page.split(MARKS[0])
    return f"{before}{MARKS[0]}\n{table}\n{notes(results)}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--notebooks", action="store_true", help="run notebooks 00 to 09 too, which takes minutes")
    parser.add_argument("--readme", action="store_true", help="measure nothing: keep the last run, in the READMEs too")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default 9)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop"}
    chosen = arguments.only.split(",") if arguments.only else [part for part in PARTS if part != "notebooks"]
    chosen += ["notebooks"] if arguments.notebooks else []
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}: {', '.join(PARTS)}")
    if arguments.readme:
        results = json.loads((MEASURED if MEASURED.exists() else STORED).read_text(encoding="utf-8"))
        save(results, STORED)
        for path, first in PAGES.items():
            path.write_text(with_table(path.read_text(encoding="utf-8"), results, first), encoding="utf-8")
        chosen = []
    else:
        results = load(facts("cpu"))
    for part in chosen:
        print(f"measuring: {part}", flush=True)
        torch.manual_seed(0)
        measured = measure(part, arguments.rounds)
        if "skipped" in measured:
            print(f"  not measured: {measured['skipped']}")
        if "times" in measured or "times" not in results["parts"].get(part, {}):
            results["parts"][part] = measured
        save(results, MEASURED)
    print(printed(results))


if __name__ == "__main__":
    main()
