"""Fetches the drawings and the keywords by name and hash, from the registry that npm is set up for."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from .hands import HANDS, KEYWORDS, Package
from .subjects import SUBJECTS, Subject

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "output" / "drawnworld"
TAGS = HERE / "keywords.json"
DRAWN_BY = HERE / "drawn_by.json"


def archive(package: Package) -> Path:
    """The package's archive, fetched when it is not there yet.

    Raises RuntimeError where npm is missing or fails, or the archive is not the one that is meant.
    """
    folder = WORK / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError("The drawings come from the npm registry: install Node.js, which brings npm.")
        wanted = f"{package.name}@{package.version}"
        done = subprocess.run([npm, "pack", "--silent", wanted], cwd=folder, capture_output=True, text=True)
        if done.returncode or not path.exists():
            raise RuntimeError(f"npm could not fetch {wanted}: {done.stderr.strip()[-300:]}")
    if base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode() != package.sha512:
        raise RuntimeError(f"{path} is not the package that is meant: remove it and run again.")
    return path


def read(package: Package, name: str) -> dict | list:
    """A JSON file of a package."""
    with tarfile.open(archive(package)) as tar:
        member = tar.extractfile(f"package/{name}")
        assert member is not None
        return json.load(member)


def icon(icons: dict, name: str) -> str | None:
    """An icon as a whole SVG; None where the set has no such icon."""
    alias = icons.get("aliases", {}).get(name)
    if alias is not None:
        name = alias["parent"]
    entry = icons["icons"].get(name)
    if entry is None:
        return None
    width, height = (entry.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{entry.get('left', 0)} {entry.get('top', 0)} {width} {height}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{width}" height="{height}">'
    return f"{head}{entry['body']}</svg>"


def drawings() -> dict[tuple[str, str], str]:
    """(subject, hand) -> SVG, of all that is drawn; a hand may lack a subject."""
    out = {}
    for hand in HANDS:
        icons = read(hand.package, "icons.json")
        assert isinstance(icons, dict)
        for subject in SUBJECTS:
            svg = None if (subject.name, hand.name) in NOT_SHOWN else icon(icons, subject.icon)
            if svg is not None:
                out[subject.name, hand.name] = svg
    return out


NOT_SHOWN = {("pistol", "nora"), ("pistol", "greta")}
"""Drawings that show something else under the subject's name: these are water pistols."""


def keywords() -> dict[str, list[str]]:
    """Subject -> tags that people file it under, without those that name it."""
    entries = read(KEYWORDS, "en/data.json")
    by_label = {entry["label"].lower().replace(" ", "-"): entry for entry in entries}
    return {subject.name: _tags(subject, by_label.get(subject.icon, {})) for subject in SUBJECTS}


def _tags(subject: Subject, entry: dict) -> list[str]:
    return [tag for tag in entry.get("tags", []) if tag.isascii() and tag != "face" and not names(subject, tag)]


def names(subject: Subject, text: str) -> bool:
    """Whether a text names the subject: by a word of its names, or by one that begins alike."""
    said = [word.rstrip("s") for name in (subject.name, *subject.others) for word in name.lower().split()]
    words = [word.rstrip("s") for word in text.lower().replace("-", " ").split()]
    return any(_alike(a, b) for a in said for b in words)


def _alike(a: str, b: str) -> bool:
    return a == b or (min(len(a), len(b)) > 3 and (a.startswith(b) or b.startswith(a)))


def fetch() -> None:
    """Fetches everything, and writes the keywords and who draws what down beside this file."""
    TAGS.write_text(json.dumps(keywords(), indent=1) + "\n")
    there = drawings()
    by = {subject.name: [hand.name for hand in HANDS if (subject.name, hand.name) in there] for subject in SUBJECTS}
    DRAWN_BY.write_text(json.dumps(by, indent=1) + "\n")
    print("\n".join(f"{hand.name}: {sum(hand.name in row for row in by.values())} drawings" for hand in HANDS))
