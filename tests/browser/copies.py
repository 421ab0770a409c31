"""Small copies of the most telling pictures, for the documentation.

``python3 scripts/test.py --only browser`` takes the pictures; ``python3 scripts/run.py tests.browser.copies`` writes
``docs/screenshots/*.jpg`` and the pictures of the help pages, ``web/docs/*.jpg``, from them.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

REPO = Path(__file__).resolve().parents[2]
PICTURES, COPIES = REPO / "output" / "browser", REPO / "docs" / "screenshots"
PAGES = REPO / "web" / "docs"
CHOSEN = ("by_hand_4_erased", "training_1_learning", "template_export_as_lora_2_loaded", "help_ErasureLearn")
WIDTH = 1280


def main() -> None:
    COPIES.mkdir(exist_ok=True)
    for name in CHOSEN:
        with Image.open(PICTURES / f"{name}.png") as picture:
            small = picture.convert("RGB").resize((WIDTH, round(picture.height * WIDTH / picture.width)))
        small.save(COPIES / f"{name}.jpg", quality=80, optimize=True)
    for page in PAGES.glob("*.md"):
        with Image.open(PICTURES / f"page_{page.stem}.png") as picture:
            picture.convert("RGB").save(PAGES / f"{page.stem}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
