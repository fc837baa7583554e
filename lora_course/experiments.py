"""The long experiments, whose stored results the notebooks plot.

    lora-edu experiment update-rank

An experiment is a function and a few arms, each a set of arguments for it. The result of an arm goes into
`data/results/<name>.json` as soon as it is there, beside the command, the seed, the versions and the kind of machine: a
run that was stopped goes on with the next arm. A notebook plots the stored numbers and runs one arm again (`run_arm`),
so that its reader sees that they are true.
"""

import argparse
import hashlib
import inspect
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from lora_course.nb00.lab import DIAL_ARMS, adapter_at
from lora_course.nb01 import lab as nb01
from lora_course.nb02.lab import RATE_ARMS, losses_at_rates
from lora_course.nb04.lab import BASE_ARMS, VOICE_ARMS, dial, onto_which_base
from lora_course.nb05.lab import SIGN_ARMS, rounded_with_signs
from lora_course.nb06.lab import COMPENSATION_ARMS, FORMAT_ARMS, compensated_loss, format_loss
from lora_course.nb06.lab_repair import REPAIR_ARMS, repaired_loss
from lora_course.nb06.lab_table import SMOLLM2_ARMS, on_smollm2
from lora_course.nb07.lab import DOUBLE_QUANT_ARMS, TWO_ERRORS_ARMS, double_quant_loss, two_errors
from lora_course.nb08.lab import FILM_ARMS, step_film
from lora_course.nb09.lab import DRAW_ARMS, QUALITY_ARMS, drawn, film, fine_tuned_loss
from lora_course.nb09.lab_merging import MERGE_ARMS, merged_again
from lora_course.nb09.lab_moved import MOVED_ARMS, moved
from lora_course.nb10.lab import PRICE_ARMS, WHERE_ARMS, adapted_loss
from lora_course.nb10.lab_directions import SPECTRA_ARMS, alike
from lora_course.nb10.lab_few import FEW_ARMS, few_loss
from lora_course.nb11.lab import TIME_ARMS, VARIANT_ARMS, step_times, variant_loss
from lora_course.nb12.lab import FOUR_STATES, RIVALS, adapted, rival
from lora_course.nb13.lab import AGREEMENT_ARMS, agreement
from lora_course.nb15.lab import FORGETTING_ARMS, forgetting_arm
from lora_course.nb16.lab_few import FEW_REWARDED_ARMS, few_rewarded
from lora_course.nb16.lab_rivals import REWARD_ARMS, reward_arm
from lora_course.nb17 import lab as nb17
from lora_course.nb18.lab_cached import CACHE_ARMS, cached
from lora_course.nb18.lab_packed import PACKED_ARMS, packed
from lora_course.nb18.lab_twice import TWICE_ARMS, twice
from lora_course.programs.command import check_output, did_you_mean
from lora_course.running import stored
from lora_course.running.scoreboard import SCOREBOARD_ARMS, score
from lora_edu import records
from lora_edu.models.base import base_path


@dataclass(frozen=True)
class Experiment:
    """A function, and the arguments of each of its arms. It returns what JSON can hold.

    If it has arguments seed, folder or progress, they get an arm's `repeat`, where to write, and whether to show a bar.
    """

    function: Callable[..., dict]
    arms: dict[str, dict]
    purpose: str = ""  # the notebook, and what is asked
    minutes: int = 0  # of all arms, on one core: estimated from one or two of them


def run(name: str, folder: Path | None = None) -> dict:
    """Run the arms of an experiment that have no stored result yet. Returns the result, which is also stored."""
    experiment, folder = experiment_named(name), folder or stored.results_folder()
    path = folder / f"{name}.json"
    head = _head(name, experiment)
    result = stored.read(path) if path.exists() else head
    _check_same_run(result, head, path)
    result["settings"] = head["settings"]
    missing = [arm for arm in experiment.arms if arm not in result["arms"]]
    for arm in tqdm(missing, desc=name, unit="arm"):
        result["arms"][arm] = run_arm(name, arm, folder=folder)
        records.write_record(path, result)
    return result


def run_arm(name: str, arm: str, *, folder: Path | None = None, progress: bool = True) -> dict:
    """Run one arm and return its result: {"diverged": True} if its loss is no longer finite.

    Nothing is stored without a folder.
    """
    experiment = experiment_named(name)
    if arm not in experiment.arms:
        raise ValueError(f"unknown arm {arm!r} of {name!r}: choose one of {', '.join(experiment.arms)}")
    settings = dict(experiment.arms[arm])
    around = {"seed": settings.pop("repeat", 0), "folder": folder, "progress": progress}
    wanted = inspect.signature(experiment.function).parameters  # what draws nothing by lot takes no seed, for example
    try:
        return experiment.function(**settings, **{key: around[key] for key in around if key in wanted})
    except FloatingPointError:
        return {"diverged": True}


def load_results(name: str) -> dict:
    """The stored result of an experiment: command, seed, versions, machine, and the arms."""
    experiment_named(name)
    return stored.load_results(name)


EXPERIMENTS = {
    "adapter-dial": Experiment(adapter_at, DIAL_ARMS, "00: the shipped adapter at many strengths", 3),
    "dial": Experiment(dial, VOICE_ARMS, "04: an adapter for plays and one for verses in one model", 6),
    "which-base": Experiment(onto_which_base, BASE_ARMS, "04: an adapter of a rounded base, merged onto either", 5),
    "signs": Experiment(rounded_with_signs, SIGN_ARMS, "05: six lots of signs for the same rounding errors", 1),
    "formats": Experiment(format_loss, FORMAT_ARMS, "06: the base in fourteen formats, six draws each", 10),
    "formats-smollm2": Experiment(on_smollm2, SMOLLM2_ARMS, "06: SmolLM2 in seven formats, two draws each", 6),
    "compensation": Experiment(compensated_loss, COMPENSATION_ARMS, "06: NF4 with GPTQ's compensation, six draws", 4),
    "repair": Experiment(repaired_loss, REPAIR_ARMS, "06: can a branch of rank 8 hold the rounding error?", 8),
    "update-rank": Experiment(nb01.update_arm, nb01.UPDATE_ARMS, "01: an update of full rank, cut down", 25),
    "calibrated-cuts": Experiment(
        nb01.calibrated, nb01.CALIBRATED_ARMS, "01: the cuts of an update, each at its best temperature", 8
    ),
    "trained-entries": Experiment(nb01.trained_entries, nb01.ENTRY_ARMS, "01: single entries, trained", 10),
    "digit-rates": Experiment(losses_at_rates, RATE_ARMS, "02: rotated digits at many learning rates", 1),
    "double-quantization": Experiment(
        double_quant_loss, DOUBLE_QUANT_ARMS, "07: constants and blocks of NF4, six draws", 3
    ),
    "two-errors": Experiment(two_errors, TWO_ERRORS_ARMS, "07: errors of codes and constants, four sets of weights", 1),
    "scoreboard": Experiment(score, SCOREBOARD_ARMS, "05 to 07: bits, errors, loss and KL of each format", 2),
    "step-films": Experiment(step_film, FILM_ARMS, "08: what is alive in one training step, twelve ways", 1),
    "qlora-film": Experiment(film, {"120 steps": {}}, "09: twelve looks at one run of QLoRA", 2),
    "nf4-draws": Experiment(drawn, DRAW_ARMS, "09: the loss of the base in NF4, two times eight draws", 2),
    "qlora-quality": Experiment(fine_tuned_loss, QUALITY_ARMS, "09: full, LoRA and QLoRA at several rates", 50),
    "moved-adapters": Experiment(moved, MOVED_ARMS, "09: adapters on their own draw of NF4, and on others", 14),
    "merge-again": Experiment(merged_again, MERGE_ARMS, "09: merged into 4 bits without the original weights", 3),
    "lora-where": Experiment(adapted_loss, WHERE_ARMS, "10: which matrices to adapt under one budget", 35),
    "lora-price": Experiment(adapted_loss, PRICE_ARMS, "10: ranks, rates and scalings", 30),
    "lora-spectra": Experiment(alike, SPECTRA_ARMS, "10: do two runs write and read alike?", 10),
    "few-numbers": Experiment(few_loss, FEW_ARMS, "10: how few numbers hold a voice? plays, read", 8),
    "few-rewarded": Experiment(few_rewarded, FEW_REWARDED_ARMS, "10: the same numbers, by 16's reward", 16),
    "variants": Experiment(variant_loss, VARIANT_ARMS, "11: ways to train adapters at several rates", 49),
    "variant-times": Experiment(step_times, TIME_ARMS, "11: the seconds of a training step of each variant", 4),
    "real-model": Experiment(adapted, FOUR_STATES, "12: SmolLM2 adapted, in 32 bits and in 4", 30),
    "real-model-rivals": Experiment(rival, RIVALS, "12: adapters moved to other bases, other draws, fewer blocks", 24),
    "agreement": Experiment(agreement, AGREEMENT_ARMS, "13: which verb goes with which pronoun?", 25),
    "forgetting": Experiment(forgetting_arm, FORGETTING_ARMS, "15: what predicts forgetting?", 25),
    "cached": Experiment(cached, CACHE_ARMS, "questions: an adapter behind the base's keys and values", 6),
    "packed": Experiment(packed, PACKED_ARMS, "questions: short speeches packed into one row", 3),
    "trained-twice": Experiment(twice, TWICE_ARMS, "questions: after plays, verses: go on, stack or merge?", 6),
    "telegrams": Experiment(nb17.trained, nb17.TASK_ARMS, "17: telegrams written out, by LoRA on pairs", 24),
    "telegrams-asked": Experiment(nb17.prompted, nb17.PROMPT_ARMS, "17: the same by prompts, without training", 30),
    "telegrams-read": Experiment(nb17.read_only, nb17.TEXT_ARMS, "17: the same by LoRA on plain addresses", 3),
    "telegrams-spoken": Experiment(
        nb17.transcript, nb17.SPOKEN_ARMS, "17: llama.cpp speaks with an adapter of ours", 1
    ),
    "reward": Experiment(reward_arm, REWARD_ARMS, "16: no e: policy gradients, one bias, and picked roll-outs", 68),
}


# --- around a run ----------------------------------------------------------------------------------------------------


def experiment_named(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: {did_you_mean(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _head(name: str, experiment: Experiment) -> dict:
    """What a reader needs in order to repeat the run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {
        "command": f"lora-edu experiment {name}",
        "seed": 0,  # and where an arm has a setting `repeat`, that one
        "machine": f"{platform.machine()} CPU, threads: {torch.get_num_threads()}",
        "versions": versions,
        "base_sha256": hashlib.sha256(base_path("laptop").read_bytes()).hexdigest(),
        "settings": json.loads(json.dumps(experiment.arms)),
        "arms": {},
    }


def _check_same_run(old: dict, wanted: dict, path: Path) -> None:
    """Arms of two different experiments must not end up in one file. New arms may join those that are there."""
    if old["base_sha256"] != wanted["base_sha256"]:
        raise ValueError(f"{path} was made with another base_sha256: delete it to run the experiment anew")
    for arm in old["arms"]:
        if old["settings"][arm] != wanted["settings"].get(arm):
            raise ValueError(f"{path} was made with another settings: delete it to run the experiment anew")


def overview() -> str:
    """All experiments: name, about how many minutes all arms take on one core, purpose."""
    lines = [f"{name:19} {one.minutes:>7} {one.purpose}" for name, one in EXPERIMENTS.items()]
    return "\n".join([f"{'experiment':19} {'minutes':>7} notebook: what is asked", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(prog="lora-edu experiment", description="Run a long experiment.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="without a name, all of them are listed")
    parser.add_argument("--folder", type=Path, help="where to write; default: where the notebooks look, data/results")
    arguments = parser.parse_args()
    if arguments.name is None:
        print(overview())
    else:
        experiment_named(arguments.name)
        check_output(arguments.folder or stored.results_folder(), "name another, --folder")
        run(arguments.name, arguments.folder)
