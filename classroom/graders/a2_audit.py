"""Exercise 2.5, the auditor: right and wrong answers."""

import torch

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


def audit_with_lora_edu(c):
    from lora_edu.measures import relative_error

    def moved(paths, before, after):
        return [name for name in others(before) if relative_error(before[name], after[name]) > 1e-6]

    return audited(moved=moved)(c)


START = "notebook 02, section 5"

AUDIT = Solutions(
    reference=audit,
    right={
        "a loop": audit_by_a_loop,
        "NumPy": audit_in_numpy,
        "lists": audit_by_lists,
    },
    wrong=[
        Wrong("up alone at the end",
              audited(silent=lambda paths, before, after: [p for p in paths if not after[f"{p}.up"].any()]), 2,
              "a layer counts as silent only if its up is zero. With down at zero the update is zero all the same.",
              START),
        Wrong("a threshold",
              audited(jumps=lambda paths, before, after: [p for p in paths
                  if (before[f"{p}.down"] @ before[f"{p}.up"]).abs().max() > 1e-6]), 2,
              "a small update is taken for none. It is zero, or it is not: the size does not matter.", START),
        Wrong("up alone at the start",
              audited(jumps=lambda paths, before, after: [p for p in paths if before[f"{p}.up"].any()]), 2,
              "an up that is not zero is taken for a jump. With down at zero the update is zero all the same.", START),
        Wrong("allclose",
              audited(moved=lambda paths, before, after: [n for n in others(before)
                  if not torch.allclose(before[n], after[n])]), 2,
              "a change in the last bit goes unnoticed. A frozen tensor keeps every bit: torch.equal.",
              "notebook 04, section 3"),
        Wrong("weights alone",
              audited(moved=lambda paths, before, after: [n for n in others(before)
                  if n.endswith("weight") and not torch.equal(before[n], after[n])]), 2,
              "only tensors named weight are looked at. A bias can be forgotten when freezing, too.",
              "notebook 04, section 3"),
        Wrong("base layers alone",
              audited(moved=lambda paths, before, after: [n for n in others(before)
                  if ".base." in n and not torch.equal(before[n], after[n])]), 2,
              "only the adapted layers are looked at. Norms and embeddings must keep their bits as well.",
              "notebook 04, section 3"),
        Wrong("adapters moved",
              audited(moved=lambda paths, before, after: [n for n in before if not torch.equal(before[n], after[n])]),
              2,
              "the factors are reported as moved. They are what is trained.", "notebook 04, section 3"),
        Wrong("silent only if all are",
              audited(silent=lambda paths, before, after: paths if not any(after[f"{p}.up"].any()
                  for p in paths) else []), 2,
              "silence is reported only if no adapter moved at all. One layer without a gradient is enough for a "
              "lost adapter, and it raises no error.", "notebook 04, section 4, where every B must have left zero"),
        Wrong("silent by down",
              audited(silent=lambda paths, before, after: [p for p in paths if not after[f"{p}.down"].any()]), 2,
              "this looks at down, which is random from the start. It is up that has to leave zero.",
              "notebook 04, section 4"),
        Wrong("silent is unmoved",
              audited(silent=lambda paths, before, after: [p for p in paths
                  if torch.equal(before[f"{p}.up"], after[f"{p}.up"])]), 2,
              "an up that did not move is called silent. It is the update that has to be zero for that.",
              "notebook 04, section 4"),
        Wrong("only the first", lambda c: lambda b, a: {k: v[:1] for k, v in audit(c)(b, a).items()}, 1),
        Wrong("off by one", lambda c: lambda b, a: {k: v[1:] for k, v in audit(c)(b, a).items()}, 0),
        Wrong("before and after exchanged", lambda c: lambda b, a: audit(c)(a, b), 1),
        Wrong("calls lora_edu", audit_with_lora_edu, 2),
    ],
)  # fmt: skip
