"""Exercise 4.5, an unfair comparison: right and wrong reviews, right and wrong repairs."""

import copy
import dataclasses

import torch

from classroom.solutions import Solutions, Wrong


def leaked(study):
    """The rows of the test split that are in the training split, too."""
    there = study.data["training"][0].tolist()
    return [i for i, row in enumerate(study.data["test"][0].tolist()) if row in there]


def review(study, by="validation", clean=None, chosen=None):
    taken = leaked(study)
    rows = [i for i in range(len(study.data["test"][0])) if i not in taken] if clean is None else clean(study, taken)
    at_rates = {rank: study.loss(study.train(rank, rate), "test", rows) for rank, rate in study.rates.items()}
    own = {rank: (rate := chosen or best(study, rank, by), study.loss(study.train(rank, rate), "test", rows))
           for rank in study.rates}  # fmt: skip
    return taken, at_rates, own


def best(study, rank, by="validation", largest=False):
    return (max if largest else min)(study.grid, key=lambda rate: study.loss(study.train(rank, rate), by))


def repair(study, split=True, rates="validation"):
    if split:
        x, y = study.data["training"]
        there = study.data["test"][0].tolist()
        kept = [i for i, row in enumerate(x.tolist()) if row not in there]
        study.data["training"] = x[kept], y[kept]
    if rates:
        study.rates = {rank: best(study, rank, rates) for rank in study.rates}


def review_with_masks(study):
    """Distances instead of lists, and a predictor for each arm that is made once."""
    x, test = study.data["training"][0], study.data["test"][0]
    mask = (torch.cdist(test.double(), x.double()) < 1e-6).any(dim=1)
    arms = {
        (rank, rate): study.train(rank, rate) for rank in study.rates for rate in {*study.grid, *study.rates.values()}
    }

    def loss(rank, rate):
        mine, theirs = (part[~mask] for part in study.data["test"])
        return torch.nn.functional.mse_loss(arms[rank, rate](mine), theirs)

    own = {}
    for rank in study.rates:
        held = torch.tensor([study.loss(arms[rank, rate], "validation") for rate in study.grid])
        rate = study.grid[held.argmin()]
        own[rank] = [rate, loss(rank, rate)]
    return mask.nonzero().flatten(), {rank: loss(rank, rate) for rank, rate in study.rates.items()}, own


def repaired_copy(study):
    data = dict(study.data)
    new = [(x, y) for x, y in zip(*data["training"], strict=True) if not (data["test"][0] == x).all(dim=1).any()]
    data["training"] = tuple(torch.stack(part) for part in zip(*reversed(new), strict=True))
    mine = dataclasses.replace(study, data=data)
    return dataclasses.replace(mine, rates={rank: best(mine, rank) for rank in reversed(mine.rates)})


def taken_from_the_test(study):
    kept = [i for i in range(len(study.data["test"][0])) if i not in leaked(study)]
    study.data["test"] = tuple(part[kept] for part in study.data["test"])
    repair(study, split=False)


def put_back(study):
    fair = copy.deepcopy(study)
    repair(fair)
    study.data, study.rates = fair.data, fair.rates


def _review(**options):
    return lambda c: (lambda study: review(study, **options), repair)


def _repair(**options):
    return lambda c: (review, lambda study: repair(study, **options))


def _changed(change):
    return lambda c: (lambda study: change(study, *review(study)), repair)


SPLIT, RATE = "notebook 02, section 1", "notebook 02, section 9"

CHOICE = (
    "the rates are not chosen on the validation split. The training split rewards memorizing, and the test split "
    "is for the report alone."
)


TEXT = "exercise 4.5"

STUDIES = Solutions(
    reference=lambda c: (review, repair),
    right={
        "masks, a repaired copy": lambda c: (review_with_masks, repaired_copy),
        "put back": lambda c: (review, put_back),
    },
    wrong=[
        Wrong("no leak looked for", _changed(lambda study, taken, clean, own: ([], clean, own)), 4,
              "no row is reported, and some of the test split are in the training split: compare row by row.", SPLIT),
        Wrong("rows of the training split", _changed(lambda study, taken, clean, own: (
              [i for i, x in enumerate(study.data["training"][0].tolist()) if x in study.data["test"][0].tolist()],
              clean, own)), 4,
              "these are rows of the training split. Asked for are those of the test split.", TEXT),
        Wrong("how many", _changed(lambda study, taken, clean, own: ([len(taken)], clean, own)), 4,
              "this says how many rows are in both splits. Asked for is which.", TEXT),
        Wrong("all rows", _review(clean=lambda study, taken: slice(None)), 4,
              "the losses are those of the whole test split, the leaked rows among them.", SPLIT),
        Wrong("the leaked rows alone", _review(clean=lambda study, taken: taken or slice(None)), 4,
              "the losses are those of the leaked rows. Leave these out, and keep the others.", SPLIT),
        Wrong("chosen on the test split", _review(by="test"), 4, CHOICE, SPLIT),
        Wrong("chosen on the training split", _review(by="training"), 4, CHOICE, SPLIT),
        Wrong("one rate", _review(chosen=0.4), 4, "both ranks get one rate. Each has its own best one.", RATE),
        Wrong("the loss on the validation split", _changed(lambda study, taken, clean, own: (taken, clean,
              {rank: (rate, study.loss(study.train(rank, rate), "validation")) for rank, (rate, _) in own.items()})), 4,
              "the losses are those of the split on which the rates were chosen. Report the test split.", SPLIT),
        Wrong("the largest loss", _changed(lambda study, taken, clean, own: (taken, clean,
              {rank: (rate := best(study, rank, largest=True), study.loss(study.train(rank, rate), "test"))
               for rank in own})), 4,
              "these are the rates with the largest loss.", SPLIT),
        Wrong("the best rate of the other rank", _changed(lambda study, taken, clean, own: (taken, clean,
              dict(zip(own, reversed(own.values()), strict=True)))), 4,
              "each rank has the result of the other one.", TEXT),
        Wrong("split not repaired", _repair(split=False), 4,
              "after your repair the training split still has rows of the test split.", SPLIT),
        Wrong("rates not repaired", _repair(rates=None), 4,
              "after your repair both ranks have one rate, that of the log.", RATE),
        Wrong("repaired on the test split", _repair(rates="test"), 4,
              "your repair does not choose the rates on the validation split, which is there for that.", SPLIT),
        Wrong("repaired on the training split", _repair(rates="training"), 4,
              "your repair does not choose the rates on the validation split, which is there for that.", SPLIT),
        Wrong("taken from the test split", lambda c: (review, taken_from_the_test), 4,
              "your repair takes the rows out of the test split, and the losses are no longer those of the log's rows. "
              "Take them out of the training split.", TEXT),
    ],
)  # fmt: skip
