"""A reader's own text: read, checked and split, so that what is measured on it means something.

The held-out part is the last tenth. It can only show that something was learned if nearly nothing of it stood in what
was trained on, the base's own text included: both are looked for.
"""

from pathlib import Path

from lora_edu.texts import Text, as_tokens, load_text

LEAST_BYTES = 100_000
PIECE = 64  # bytes: pieces as long as this one do not repeat by chance
MOST_KNOWN = 0.2  # the share of pieces that may stand in another text; a refrain or a letterhead does


def read_own_text(path: str | Path) -> Text:
    """Read a text file as bytes: nine tenths to train on, the rest, from a line's start on, held out.

    Raises FileNotFoundError, and ValueError for what is no plain text in UTF-8, is shorter than 100,000 bytes, stands
    in the text that the base was trained on, or says in its last tenth what it has said before.
    """
    path = Path(path).expanduser()
    data = read_plain(path)
    if len(data) < LEAST_BYTES:
        raise ValueError(f"{path.name} has {len(data):,} bytes: at least {LEAST_BYTES:,} are needed, about 40 pages")
    cut = data.rfind(b"\n", 0, len(data) * 9 // 10) + 1 or len(data) * 9 // 10
    train, held_out = data[:cut], data[cut:]
    read = bytes(load_text("speeches").train.numpy()), "the addresses that the base has read: take another text"
    twice = train, "its first nine tenths, so a low loss would show memory: remove what is there twice"
    for other, where in (read, twice):
        if (share := share_in(held_out, other)) > MOST_KNOWN:
            raise ValueError(f"{share:.0%} of the last tenth of {path.name} stands in {where}")
    return Text(as_tokens(train), as_tokens(held_out))


def read_plain(path: Path) -> bytes:
    """A file of plain text in UTF-8, its lines ended by \\n. Raises FileNotFoundError, and ValueError for another."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: name a text file")
    data = path.read_bytes().replace(b"\r\n", b"\n")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not text in UTF-8 (byte {error.start:,} is not part of a character): save it as plain "
            "text in UTF-8. A PDF or a document of a word processor must be exported first"
        ) from error
    if not data.strip():
        raise ValueError(f"{path.name} is empty: name a file with a text")
    if b"\0" in data:
        raise ValueError(f"{path.name} holds zero bytes, so it is no plain text: export it as plain text in UTF-8")
    return data


def held_out_line(text: Text, least: int = 28, most: int = 52) -> str:
    """The first line of the held-out part that fits a picture: so many characters, all of them ASCII."""
    lines = bytes(text.validation.tolist()).decode("utf-8", errors="replace").split("\n")
    for line in lines:
        if least <= len(line.strip()) <= most and line.isascii():
            return line.strip()
    longest = max((line.strip() for line in lines), key=len)
    return longest.encode("ascii", errors="replace").decode()[:most]


def share_in(text: bytes, other: bytes, pieces: int = 100) -> float:
    """The share of pieces of a text, taken at even distances, that another text holds to the byte."""
    starts = range(0, len(text) - PIECE + 1, max(1, (len(text) - PIECE) // pieces))
    return sum(text[start : start + PIECE] in other for start in starts) / max(1, len(starts))
