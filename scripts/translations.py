"""What the scripts share that say what a language lacks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCALES = ROOT / "locales"


def languages() -> list[str]:
    """Those that there are translations for."""
    return sorted(path.name for path in LOCALES.iterdir() if path.is_dir() and path.name != "en")


def read(path: Path) -> dict[str, str]:
    """Translations by their English text; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def report(about: str | None, texts: Sequence[str], translations: Callable[[str], dict[str, str]], old: str) -> None:
    """Prints what each language lacks, and what it has beside the texts, which ``old`` is said of; or, of the language
    that was asked for, what is missing, as JSON."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", nargs="?", choices=languages())
    asked = parser.parse_args().language
    if asked:
        known = translations(asked)
        print(json.dumps({text: "" for text in texts if text not in known}, ensure_ascii=False, indent=2))
        return
    for language in languages():
        known = translations(language)
        missing, more = [text for text in texts if text not in known], [text for text in known if text not in texts]
        print(f"{language}: {len(missing)} of {len(texts)} missing, {len(more)} {old}", *more, sep="\n  ")
