"""Exercise 2.5, a run that trains and is wrong: right and wrong evidence, right and wrong repairs."""

import copy
import dataclasses

import torch

from classroom.solutions import Solutions, Wrong

FACTORS = (".down", ".up")


def measured(run, trained=True, at_the_end=False):
    """How far each tensor of the base moved; of each layer the first gradient of `up`, and how far `up` moved."""
    trial, fresh = copy.deepcopy(run), copy.deepcopy(run)
    before = run.model.state_dict()
    if trained:
        trial.train()
    moved = {name: (tensor - before[name]).norm().item() for name, tensor in trial.model.state_dict().items()}
    source = trial if at_the_end else fresh
    source.model.zero_grad()
    source.loss().backward()
    arrived = {name: 0 if p.grad is None else p.grad.norm().item() for name, p in source.model.named_parameters()}
    return {name: moved[name] for name in run.base()}, {
        path: (arrived[f"{path}.up"], moved[f"{path}.up"]) for path in run.layers()
    }


def verdict(tensors, layers):
    found = {name: "moved" for name, far in tensors.items() if far}
    found |= {path: "no gradient" for path, (gradient, _) in layers.items() if not gradient}
    return found | {path: "not stepped" for path, (gradient, far) in layers.items() if gradient and not far}


def evidence(run):
    tensors, layers = measured(run)
    return tensors, layers, verdict(tensors, layers)


def repair(run):
    run.reentrant = False
    for name, parameter in run.model.named_parameters():
        parameter.requires_grad_(name.endswith(FACTORS))
    run.optimized = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]


def evidence_by_hand(run):
    """Its own loop instead of the run's, and double precision for the norms."""
    trial = copy.deepcopy(run)
    names = dict(trial.model.named_parameters())
    start = {name: p.detach().double().clone() for name, p in names.items()}
    arrived = {}
    for _ in range(trial.steps):
        for parameter in names.values():
            parameter.grad = None
        trial.loss().backward()
        arrived = arrived or {n: 0.0 if p.grad is None else float(p.grad.double().norm()) for n, p in names.items()}
        with torch.no_grad():
            for name in trial.optimized:
                if names[name].grad is not None:
                    names[name] -= trial.rate * names[name].grad
    way = {name: torch.linalg.vector_norm(p.detach().double() - start[name]) for name, p in names.items()}
    tensors = {name: way[name] for name in run.base()}
    layers = {path: torch.stack([torch.tensor(arrived[path + ".up"]), way[path + ".up"]]) for path in run.layers()}
    return [tensors, layers, verdict(tensors, {path: pair.tolist() for path, pair in layers.items()})]


def repair_without_checkpoints(run):
    run.checkpointed = 0
    run.model.requires_grad_(False)
    run.optimized = []
    for path, layer in run.layers().items():
        for factor in ("down", "up"):
            getattr(layer, factor).requires_grad_(True)
            run.optimized.append(f"{path}.{factor}")


def repair_by_a_hook(run):
    for name in run.base():
        run.model.get_parameter(name).requires_grad = False
    wanted = [name for name, _ in run.model.named_parameters() if name.endswith(FACTORS)]
    run.optimized[:] = wanted
    run.model.token_embedding.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


def repaired_copy(run):
    repair(mine := copy.deepcopy(run))
    return dataclasses.replace(mine, optimized=sorted(mine.optimized))


def _evidence(change):
    """The right evidence with something changed: change(run, tensors, layers) -> the three."""
    return lambda c: (lambda run: change(run, *measured(run)), repair)


def _concluded(**options):
    return lambda run: (*(found := measured(run, **options)), verdict(*found))


def _verdict(other):
    return _evidence(lambda run, tensors, layers: (tensors, layers, other(run, tensors, layers)))


def _repair(other):
    return lambda c: (evidence, other)


def evidence_in_place(run):
    tensors, layers, found = evidence(run)
    run.loss().backward()
    run.train()
    return tensors, layers, found


def repair_all_but(*left):
    def other(run):
        before = run.reentrant, run.optimized, [p.requires_grad for p in run.model.parameters()]
        repair(run)
        if "reentrant" in left:
            run.reentrant = before[0]
        if "optimizer" in left:
            run.optimized = [name for name in before[1] if name in run.optimized]
        if "frozen" in left:
            run.optimized = [*before[1], *(name for name in run.optimized if name not in before[1])]
            for parameter, asks in zip(run.model.parameters(), before[2], strict=True):
                parameter.requires_grad_(asks)

    return other


def repair_freezes_all(run):
    run.model.requires_grad_(False)
    run.optimized = [name for name in run.optimized if name.endswith(FACTORS)]
    run.reentrant = False


def repair_trains(run):
    repair(run)
    run.train()


def repair_trains_the_embedding(run):
    repair(run)
    run.reentrant = True
    run.model.token_embedding.requires_grad_(True)
    run.optimized.append("token_embedding.weight")


def repair_changes_the_rate(run):
    repair(run)
    run.rate /= 2


def repair_steps_up_alone(run):
    repair(run)
    run.optimized = [name for name in run.optimized if name.endswith(".up")]


def _asks(run):
    return [n for n in run.base() if run.model.get_parameter(n).requires_grad]


FROZEN, TRAP = "notebook 04, section 3", "notebook 08, section 6"
TEXT = "exercise 2.5"

RUNS = Solutions(
    reference=lambda c: (evidence, repair),
    right={
        "by hand, no checkpoints": lambda c: (evidence_by_hand, repair_without_checkpoints),
        "a hook": lambda c: (evidence, repair_by_a_hook),
        "a repaired copy": lambda c: (evidence_by_hand, repaired_copy),
    },
    wrong=[
        Wrong("weights alone", _evidence(lambda run, t, la: ({n: v * n.endswith("weight") for n, v in t.items()}, la,
              verdict(t, la))), 7,
              "only tensors named weight are measured. A bias can be forgotten when freezing, too.", FROZEN),
        Wrong("who asks, moves", _verdict(lambda run, t, la: verdict(dict.fromkeys(_asks(run), 1), la)), 6,
              "a tensor that asks for a gradient is called moved. No optimizer knows it: measure.", FROZEN),
        Wrong("no cause", _verdict(lambda run, t, la: {n: w.replace("not stepped", "no gradient")
              for n, w in verdict(t, la).items()}), 6,
              "every layer that learned nothing is said to get no gradient. To some it came.", TRAP),
        Wrong("the other cause", _verdict(lambda run, t, la: {n: w.replace("no gradient", "not stepped")
              for n, w in verdict(t, la).items()}), 6,
              "every layer that learned nothing is said not to be stepped. To some no gradient came at all.", TRAP),
        Wrong("not what it measured", _verdict(lambda run, t, la: {}), 6,
              "the verdict names nothing. Your own measurements show what is wrong.", FROZEN),
        Wrong("the adapters alone", _verdict(lambda run, t, la: verdict({}, la)), 6,
              "the verdict looks at the adapters alone. Something of the base can move as well.", FROZEN),
        Wrong("the base alone", _verdict(lambda run, t, la: verdict(t, {})), 6,
              "the verdict looks at the base alone. A layer can learn nothing, and no error is raised.", TRAP),
        Wrong("the gradient at the end", lambda c: (_concluded(at_the_end=True), repair), 7,
              "the gradients are those of the last step. Those of the first are asked for: before anything moved.",
              TEXT),
        Wrong("nothing trained", lambda c: (_concluded(trained=False), repair), 4,
              "nothing moved in your measurement: the copy that you compare was not trained.", FROZEN),
        Wrong("squares", _evidence(lambda run, t, la: ({n: v * v for n, v in t.items()}, la, verdict(t, la))), 7,
              "these are the squares of the distances. The Frobenius norm has a root.", "notebook 05, section 1"),
        Wrong("trains the run itself", lambda c: (evidence_in_place, repair), 7,
              "your evidence changed the run that it was given. Measure on a copy: copy.deepcopy(run).", TEXT),
        Wrong("reentrant still", _repair(repair_all_but("reentrant")), 6,
              "after your repair some layers get no gradient: their blocks are checkpointed by the reentrant kind, and "
              "nothing before them asks for a gradient.", TRAP),
        Wrong("not in the optimizer", _repair(repair_all_but("optimizer")), 6,
              "after your repair some factors get a gradient, and no optimizer knows them.", "notebook 04, section 4"),
        Wrong("base not frozen", _repair(repair_all_but("frozen")), 7,
              "after your repair something of the base still moves.", FROZEN),
        Wrong("frozen altogether", _repair(repair_freezes_all), 5,
              "your repair freezes the factors too: nothing is left to train.", FROZEN),
        Wrong("trained by the repair", _repair(repair_trains), 5,
              "your repair trains the model. It mends the run; the training comes afterwards.", TEXT),
        Wrong("the embedding trained", _repair(repair_trains_the_embedding), 5,
              "your repair trains the embedding, so that gradients arrive. They do, and the base moves.", TRAP),
        Wrong("up alone", _repair(repair_steps_up_alone), 6,
              "after your repair `up` is trained and `down` stays. Both factors belong to the optimizer.", FROZEN),
        Wrong("another rate", _repair(repair_changes_the_rate), 5,
              "your repair changes the rate or the number of steps. They were not wrong.", TEXT),
    ],
)  # fmt: skip
