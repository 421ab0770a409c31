"""What a user does by hand: finds a node, wires it, runs it, reads its page, and is told what was wrong."""

import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import expect

from tests.browser.editor import Editor
from tests.browser.graphs import drawing
from toyworld.judge import load_judge
from toyworld.world import SHAPES

REPO = Path(__file__).resolve().parents[2]
LOADER = "CheckpointLoaderSimple"
PAGES = sorted((REPO / "web" / "docs").glob("*.md"))


def shape(png: bytes) -> str:
    """What the judge sees in a picture that the editor shows."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB").resize((64, 64), Image.Resampling.BOX))
    logits = load_judge()(torch.tensor(picture).permute(2, 0, 1)[None] / 255)["shape"]
    return list(SHAPES)[int(logits.argmax())]


def put_between(editor: Editor, node: str) -> None:
    """Drag the model's link through a node."""
    editor.connect(editor.number(LOADER), "MODEL", node, "model")
    editor.connect(node, "model", editor.number("KSampler"), "model")


def test_a_concept_is_erased_by_searching_a_node_dragging_links_and_typing(editor, info):
    editor.load(drawing(info), "by hand")
    editor.run()
    [base] = editor.images("Picture")
    editor.shot("by_hand_1_base")
    found = editor.search("erase", at=(600, 200))
    expect(found.first).to_contain_text("Erase Concept")
    editor.shot("by_hand_2_search")
    erase = editor.place(found, "Erase Concept", at=(600, 60))
    put_between(editor, erase)
    editor.connect(editor.number(LOADER), "CLIP", erase, "clip")
    editor.text_box("concept").click()
    editor.page.keyboard.type("circle")
    editor.shot("by_hand_3_wired")
    editor.run()
    [erased] = editor.images("Picture")
    assert editor.said("ErasureText").startswith("✓ circle → ")
    editor.shot("by_hand_4_erased")
    assert shape(base) == "circle" and shape(erased) != "circle"


def test_a_saved_erasure_is_loaded_and_applied_by_dragging_links(editor, info):
    editor.load(drawing(info), "from a file")
    load = editor.place(editor.search("load erasure", at=(600, 200)), "Load Erasure", at=(600, -20))
    erase = editor.place(editor.search("apply erasure", at=(600, 200)), "Apply Erasure", at=(600, 200))
    put_between(editor, erase)
    editor.connect(load, "erasure", erase, "erasure")
    editor.run()
    [erased] = editor.images("Picture")
    editor.shot("from_a_file")
    assert shape(erased) != "circle"


def test_a_blueprint_is_found_and_compares(editor, info):
    editor.load(drawing(info), "blueprint")
    compare = editor.place(editor.search("erase and compare", at=(600, 200)), "Erase and Compare", at=(600, -40))
    names = (LOADER, "Prompt", "Negative prompt", "EmptyLatentImage", "ImageScaleBy")
    loader, positive, negative, latent, large = map(editor.number, names)
    editor.connect(loader, "MODEL", compare, "model")
    editor.connect(positive, "CONDITIONING", compare, "positive")
    editor.connect(loader, "CLIP", compare, "clip")
    editor.connect(negative, "CONDITIONING", compare, "negative")
    editor.connect(loader, "VAE", compare, "vae")
    editor.connect(latent, "LATENT", compare, "latent_image")
    editor.page.get_by_placeholder("concept", exact=True).click()
    editor.page.keyboard.type("circle")
    seen = {}
    for output in ("before", "after"):
        editor.connect(compare, output, large, "image")
        editor.run()
        seen[output] = shape(editor.images("Picture")[0])
    editor.shot("blueprint")
    assert seen["before"] == "circle" and seen["after"] != "circle"


def test_an_empty_concept_is_answered_by_a_sentence_on_the_node(editor, info):
    editor.load(drawing(info), "empty")
    erase = editor.place(editor.search("erase", at=(600, 200)), "Erase Concept", at=(600, 60))
    put_between(editor, erase)
    editor.connect(editor.number(LOADER), "CLIP", erase, "clip")
    assert editor.press_run()()["kind"] == "refused"
    expect(editor.part("error-overlay")).to_contain_text("Erase Concept rejected the value for concept")
    assert editor.said("ErasureText") == "The concept is empty: type what is to be erased, one name a line."
    editor.shot("empty_concept_1_refused")
    editor.part("error-overlay-see-errors").click()
    expect(editor.page.get_by_text("Erase Concept - concept")).to_be_visible()
    editor.shot("empty_concept_2_details")


# ---------------------------------------------------------------- help


def plain(markdown: str) -> list[str]:
    """The headings and paragraphs of a page, as text; tables, lists and code are laid out in ways of their own."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", markdown)]
    flowing = [part for part in parts if part[:1] not in "|-`!123456789"]
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]|^#+ ", r"\1", part) for part in flowing if part]


LOADED = "([panel, name]) => [...panel.querySelectorAll('img')].some(i => i.src.endsWith(name) && i.naturalWidth > 0)"


def test_the_help_panel_shows_every_page_of_ours(editor):
    editor.begin()
    for i, page in enumerate(PAGES):
        # Two clicks at one place would be a double click.
        node = editor.add(page.stem, at=(100 + 400 * (i % 2), 200))
        editor.select(node)
        if i == 0:
            editor.part("info-button").click()
        editor.part("panel-tab-info").click()
        for text in plain(page.read_text(encoding="utf-8")):
            expect(editor.part("properties-panel")).to_contain_text(text)
        editor.until(LOADED, [editor.part("properties-panel").element_handle(), f"{page.stem}.jpg"])
        if page.stem in ("ErasureText", "ErasureLearn"):
            editor.shot(f"help_{page.stem}")
        editor.remove(node)
