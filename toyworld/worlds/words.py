"""Common words that captions mention and pictures do not show: a text encoder has to know them apart.

They are the pack's common words as they were when the worlds were trained, and words that prompts begin with.
"""

from __future__ import annotations

import random

from ..world import Scene, random_caption

_TEXT = """
person man woman crowd doctor soldier king queen clown robot angel dancer farmer pirate dog cat horse cow sheep
pig rabbit mouse lion tiger bear wolf fox elephant giraffe zebra monkey deer bird eagle owl parrot duck chicken
penguin fish shark whale dolphin frog turtle snake lizard dragon dinosaur butterfly bee spider house cottage
castle church temple mosque tower bridge skyscraper barn lighthouse windmill factory school hospital city
village street road park garden farm beach desert forest jungle mountain valley river lake waterfall sea island
sky cloud rainbow sunset sunrise storm snow rain fire smoke lightning ocean cave volcano glacier tree flower
rose tulip sunflower grass leaf mushroom cactus palm apple banana lemon strawberry grape pumpkin tomato bread
cake pizza burger sandwich cheese egg soup ice-cream cookie coffee tea wine car truck bus train bicycle
motorcycle airplane helicopter rocket ship boat balloon tractor ambulance chair table sofa bed lamp clock mirror
window door stairs book pen pencil paper bottle cup glass plate bowl knife fork spoon umbrella bag hat shoe boot
glove shirt dress coat suit crown mask watch necklace phone computer camera television radio guitar piano violin
drum trumpet ball doll kite toy sword shield flag coin parachute ladder hammer wheel chain rope candle lantern
statue fountain sun arrow diamond spiral cube sphere cone cylinder oval rectangle pink brown black white grey
gold silver turquoise shiny rough smooth colourful dark bright photograph painting drawing sketch watercolour
cartoon comic poster portrait landscape collage sculpture mosaic graffiti engraving woodcut anime impressionism
cubism surrealism realism minimalism baroque gothic Monet Rembrandt Vermeer Hokusai Matisse Klimt Munch Cezanne
Kandinsky Renoir Turner Botticelli
"""
WORDS = tuple(_TEXT.split())
TAGS = (
    "hd", "4k", "good quality", "high resolution", "beautiful", "stunning", "detailed", "realistic", "official art",
    "soft lighting", "close up", "wallpaper", "very aesthetic", "elegant", "dramatic", "artstation", "sharp", "perfect",
)  # fmt: skip
ALONE, AROUND = 0.08, 0.3
"""How many captions are a common word alone, and how many have some around them."""
PHRASES = ("a {}", "{}", "a photo of a {}")


def wordy_caption(scene: Scene, rng: random.Random) -> tuple[str, int]:
    """A training caption, and the index in ``WORDS`` of the common word in it: ``len(WORDS)`` for none.

    A word alone says nothing of the scene, so the picture may show anything; words around a caption change nothing.
    """
    draw, word = rng.random(), rng.randrange(len(WORDS))
    if draw < ALONE:
        return rng.choice(PHRASES).format(WORDS[word]), word
    text = random_caption(scene, rng)
    if not text or draw > ALONE + AROUND:
        return text, len(WORDS)
    kind = rng.randrange(3)
    if kind == 0:
        return f"{text}, {WORDS[word]}", word
    if kind == 1:
        return f"{WORDS[word]}, {text}", word
    return ", ".join([*rng.sample(TAGS, rng.randrange(1, 4)), text]), len(WORDS)


def every_word() -> list[str]:
    """All that captions may have beside what the world's own captions say."""
    return [*(phrase.format(word) for phrase in PHRASES for word in WORDS), *TAGS, ", ".join(("a circle", *WORDS))]
