"""What pip prints, in the few words that somebody who waits wants to read."""

import re

LARGE = 20  # MB: a download that is worth a line of its own
NO_NETWORK = re.compile(r"Temporary failure|ConnectionError|NewConnection|Connection to|ConnectTimeout|getaddrinfo|"
                        r"No matching distribution|Network is unreachable|ProxyError")  # fmt: skip
NAME = re.compile(r"\w+(?:[.-][A-Za-z]\w*)*")  # of a package, without its version


def doing(said: list[str], unpacked: int) -> str:
    """The package that pip is at: it looks for all of them, loads them, and then unpacks one after the other."""
    for line in reversed(said):
        first, _, rest = line.partition(" ")
        if line.startswith("Installing collected packages: "):
            names = line.partition(": ")[2].split(", ")
            at = min(unpacked, len(names) - 1)
            return f"unpacking {names[at]}, {at + 1} of {len(names)}"
        if first == "Downloading" and ".metadata" not in rest:
            return f"downloading {NAME.findall(rest.rpartition('/')[2])[0]}"
        if first == "Collecting":
            return f"looking for {NAME.findall(rest)[0]}, package {sum(one.startswith(first) for one in said)}"
    return ""


def step(line: str) -> str | None:
    """The few lines of pip's that are worth one on the screen."""
    if download := re.match(r"\s*Downloading (?:\S*/)?([\w.]+?)-\d\S* \(([\d.]+) (MB|GB)\)", line):
        name, size, unit = download.groups()
        return f"downloading {name} ({size} {unit})" if unit == "GB" or float(size) >= LARGE else None
    names = line.partition("Installing collected packages: ")[2]
    return f"unpacking {names.count(',') + 1} packages" if names else None


def reason(said: list[str]) -> str:
    """Why it failed."""
    text = "\n".join(said)
    if "No space left" in text:
        return "the disk is full"
    if NO_NETWORK.search(text):
        return "no network, or no way through it to the package index"
    errors = [line for line in said if line.startswith("ERROR")]
    return errors[-1] if errors else "it was ended from outside"
