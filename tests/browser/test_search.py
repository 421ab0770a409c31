"""The search for nodes: what a person types first who wants something gone."""

from playwright.sync_api import expect

WORDS = (
    "erase", "remove", "ban", "unlearn", "style", "delete", "block", "suppress", "exclude", "avoid", "forget", "censor",
    "nsfw", "artist", "copyright", "brand", "negative", "LECO", "ESD", "UCE", "KPOP", "delete concept", "remove object",
    "erase style", "ban word",
)  # fmt: skip
OTHERS = {"ksampler": "KSampler", "style model": "Load Style Model", "remove background": "Remove Background"}
"""What the editor's own nodes are called still finds them first."""


def test_what_people_type_finds_the_node_to_type_into_first(editor):
    editor.begin()
    hits = editor.search("", at=(300, 200))
    box = editor.page.get_by_role("search").get_by_role("combobox", name="Add a node")
    for word in WORDS:
        box.fill("ksampler")
        expect(hits.first).to_contain_text("KSampler")  # the next word's hits are its own
        box.fill(word)
        expect(hits.first, word).to_contain_text("Erase Concept")
    for words, title in OTHERS.items():
        box.fill(words)
        expect(hits.first, words).to_contain_text(title)
