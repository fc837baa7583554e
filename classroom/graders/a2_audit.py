"""Exercise 2.5, the auditor: right and wrong answers."""

import torch

from classroom.cheats import constantly, exiting, printing, replacing_allclose
from classroom.graders.a2_common import visible
from classroom.solutions import Solutions, Wrong


def audit(c):
    def report(before, after):
        paths = [name.removesuffix(".down") for name in before if name.endswith(".down")]
        adapters = {f"{path}.{factor}" for path in paths for factor in ("down", "up")}
        return {
            "jumps": [path for path in paths if (before[f"{path}.down"] @ before[f"{path}.up"]).any()],
            "moved": [name for name in before if name not in adapters and not torch.equal(before[name], after[name])],
            "silent": [path for path in paths if not (after[f"{path}.down"] @ after[f"{path}.up"]).any()],
        }

    return report


def audit_by_a_loop(c):
    def report(before, after, **unused):
        jumps, moved, silent = set(), set(), set()
        for name, old in before.items():
            path, _, last = name.rpartition(".")
            if last == "up":
                if torch.count_nonzero(old) and torch.count_nonzero(before[path + ".down"]):
                    jumps.add(path)
                if not (after[name].abs().max() > 0 and after[path + ".down"].abs().max() > 0):
                    silent.add(path)
            elif last != "down" and (old != after[name]).any():
                moved.add(name)
        return {"jumps": jumps, "moved": moved, "silent": silent, "checked": len(before)}

    return report


def audit_in_numpy(c):
    def report(before, after):
        old = {name: tensor.numpy() for name, tensor in before.items()}
        new = {name: tensor.numpy() for name, tensor in after.items()}
        ends = (".down", ".up")
        paths = sorted(name[:-3] for name in old if name.endswith(".up"))

        def size(numbers, path):
            return abs(numbers[path + ".down"].astype("float64") @ numbers[path + ".up"]).sum()

        return dict(
            jumps=tuple(path for path in paths if size(old, path) > 0),
            moved=tuple(name for name in old if not name.endswith(ends) and old[name].tobytes() != new[name].tobytes()),
            silent=tuple(path for path in paths if size(new, path) == 0),
        )

    return report


def audit_by_lists(c):
    def report(before, after):
        pairs = {}
        for name in before:
            path, factor = name.rsplit(".", 1)
            if factor in ("down", "up"):
                pairs.setdefault(path, []).append(name)
        inside = [name for pair in pairs.values() for name in pair]

        def alive(state, pair):
            return all(any(number != 0 for row in state[name].tolist() for number in row) for name in pair)

        return {
            "jumps": [path for path, pair in pairs.items() if alive(before, pair)],
            "silent": [path for path, pair in pairs.items() if not alive(after, pair)],
            "moved": [n for n in before if n not in inside and before[n].tolist() != after[n].tolist()],
        }

    return report


def audited(**changed):
    """The report with one list made in another way: (paths, before, after) -> list."""

    def make(c):
        def report(before, after):
            paths = [name.removesuffix(".down") for name in before if name.endswith(".down")]
            right = audit(c)(before, after)
            return right | {name: list(made(paths, before, after)) for name, made in changed.items()}

        return report

    return make


def others(before):
    return [name for name in before if not name.endswith((".down", ".up"))]


def audit_in_place(c):
    def report(before, after):
        result = audit(c)(before, after)
        for name in before:
            after[name] -= before[name]
        return result

    return report


def audit_with_lora_edu(c):
    from lora_edu.measures import relative_error

    def moved(paths, before, after):
        return [name for name in others(before) if relative_error(before[name], after[name]) > 1e-6]

    return audited(moved=moved)(c)


def audit_that_adds_names(c):
    """`up` anywhere in a name counts as an adapter."""
    return audited(
        moved=lambda paths, before, after: [
            n for n in before if "up" not in n and "down" not in n and not torch.equal(before[n], after[n])
        ]
    )(c)


def remembered_audit(c):
    before, after = visible(c, "2.5")[1]
    report = audit(c)(before, after)
    return lambda before, after: report


START = "notebook 02, section 5"

AUDIT = Solutions(
    reference=audit,
    right={
        "a loop": audit_by_a_loop,
        "NumPy": audit_in_numpy,
        "lists": audit_by_lists,
    },
    wrong=[
        Wrong(
            "up alone at the start",
            audited(jumps=lambda paths, before, after: [p for p in paths if before[f"{p}.up"].any()]),
            keeps=2,
            sentence="an up that is not zero is taken for a jump. With down at zero the update is zero all the same.",
            see=START,
        ),
        Wrong(
            "allclose",
            audited(
                moved=lambda paths, before, after: [
                    n for n in others(before) if not torch.allclose(before[n], after[n])
                ]
            ),
            keeps=2,
            sentence="a change in the last bit goes unnoticed. A frozen tensor keeps every bit: torch.equal.",
            see="notebook 04, section 3",
        ),
        Wrong(
            "weights alone",
            audited(
                moved=lambda paths, before, after: [
                    n for n in others(before) if n.endswith("weight") and not torch.equal(before[n], after[n])
                ]
            ),
            keeps=2,
            sentence="only tensors named weight are looked at. A bias can be forgotten when freezing, too.",
            see="notebook 04, section 3",
        ),
        Wrong(
            "base layers alone",
            audited(
                moved=lambda paths, before, after: [
                    n for n in others(before) if ".base." in n and not torch.equal(before[n], after[n])
                ]
            ),
            keeps=2,
            sentence="only the adapted layers are looked at. Norms and embeddings must keep their bits as well.",
            see="notebook 04, section 3",
        ),
        Wrong(
            "adapters moved",
            audited(moved=lambda paths, before, after: [n for n in before if not torch.equal(before[n], after[n])]),
            keeps=2,
            sentence="the factors are reported as moved. They are what is trained.",
            see="notebook 04, section 3",
        ),
        Wrong("up anywhere in the name", audit_that_adds_names, keeps=2),
        Wrong(
            "silent only if all are",
            audited(
                silent=lambda paths, before, after: paths if not any(after[f"{p}.up"].any() for p in paths) else []
            ),
            keeps=2,
            sentence=(
                "silence is reported only if no adapter moved at all. One layer without a gradient is enough for a "
                "lost adapter, and it raises no error."
            ),
            see="notebook 04, section 4, where every B must have left zero",
        ),
        Wrong(
            "silent by down",
            audited(silent=lambda paths, before, after: [p for p in paths if not after[f"{p}.down"].any()]),
            keeps=2,
            sentence="this looks at down, which is random from the start. It is up that has to leave zero.",
            see="notebook 04, section 4",
        ),
        Wrong(
            "silent is unmoved",
            audited(
                silent=lambda paths, before, after: [
                    p for p in paths if torch.equal(before[f"{p}.up"], after[f"{p}.up"])
                ]
            ),
            keeps=2,
            sentence="an up that did not move is called silent. It is the update that has to be zero for that.",
            see="notebook 04, section 4",
        ),
        Wrong(
            "silent at the start",
            audited(silent=lambda paths, before, after: audit(None)(before, before)["silent"]),
            keeps=2,
        ),
        Wrong(
            "names for paths",
            audited(jumps=lambda p, before, after: [f"{x}.up" for x in audit(None)(before, after)["jumps"]]),
            keeps=2,
        ),
        Wrong("only the first", lambda c: lambda b, a: {k: v[:1] for k, v in audit(c)(b, a).items()}, keeps=1),
        Wrong("off by one", lambda c: lambda b, a: {k: v[1:] for k, v in audit(c)(b, a).items()}, keeps=0),
        Wrong("before and after exchanged", lambda c: lambda b, a: audit(c)(a, b), keeps=1),
        Wrong("true or false", lambda c: lambda b, a: {k: bool(v) for k, v in audit(c)(b, a).items()}, keeps=0),
        Wrong("changes a tensor", audit_in_place, keeps=2),
        Wrong("prints", lambda c: printing(audit(c)), keeps=0),
        Wrong("exits", lambda c: exiting, keeps=0),
        Wrong("the visible report", remembered_audit, keeps=0),
        Wrong("no complaints", lambda c: constantly({"jumps": [], "moved": [], "silent": []}), keeps=0),
        Wrong(
            "replaces allclose",
            lambda c: replacing_allclose(lambda b, a: audited(moved=lambda *_: [])(c)(b, a)),
            keeps=2,
        ),
        Wrong("calls lora_edu", audit_with_lora_edu, keeps=2),
    ],
)
