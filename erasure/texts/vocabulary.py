"""Common words. A concept's neighbours are looked for among them; harmless ones only, for one may become its target."""

_TEXT = """
person man woman crowd doctor soldier king queen clown robot angel dancer farmer pirate
dog cat horse cow sheep pig rabbit mouse lion tiger bear wolf fox elephant giraffe zebra monkey deer bird eagle owl
parrot duck chicken penguin fish shark whale dolphin frog turtle snake lizard dragon dinosaur butterfly bee spider
house cottage castle church temple mosque tower bridge skyscraper barn lighthouse windmill factory school hospital
city village street road park garden farm beach desert forest jungle mountain valley river lake waterfall sea island
sky cloud rainbow sunset sunrise storm snow rain fire smoke lightning ocean cave volcano glacier
tree flower rose tulip sunflower grass leaf mushroom cactus palm apple banana orange lemon strawberry grape pumpkin
tomato bread cake pizza burger sandwich cheese egg soup ice-cream cookie coffee tea wine
car truck bus train bicycle motorcycle airplane helicopter rocket ship boat balloon tractor ambulance
chair table sofa bed lamp clock mirror window door stairs book pen pencil paper bottle cup glass plate bowl knife
fork spoon umbrella bag hat shoe boot glove shirt dress coat suit crown mask watch necklace ring
phone computer camera television radio guitar piano violin drum trumpet ball doll kite toy sword shield flag coin
parachute ladder hammer wheel chain rope candle lantern statue fountain
circle square triangle star cross heart moon sun arrow diamond spiral cube sphere cone cylinder oval rectangle
red green blue yellow purple orange pink brown black white grey gold silver turquoise
plain striped dotted checked shiny rough smooth colourful dark bright
photograph painting drawing sketch watercolour cartoon comic poster portrait landscape collage sculpture mosaic
graffiti engraving woodcut anime impressionism cubism surrealism realism minimalism baroque gothic
Monet Rembrandt Vermeer Hokusai Matisse Klimt Munch Cezanne Kandinsky Renoir Turner Botticelli
"""
WORDS = tuple(_TEXT.split())
_ALSO = """
circle square triangle star cross heart ring wheel arrow spiral
ring ball wheel coin moon sun cup plate
gold silver ring necklace crown coin sword
rose tulip flower pink orange violin
king queen crown castle sword shield
tree palm cactus apple orange lemon forest garden
photograph camera portrait landscape poster
""".strip()
KINDS = tuple(tuple(line.split()) for line in (*_TEXT.strip().split("\n"), *_ALSO.split("\n")))
"""The same by kinds; a word can be of several."""

_EVERYDAY = """
red orange yellow green blue purple black white plain striped dotted checked photograph painting street night
"""
EVERYDAY = tuple(_EVERYDAY.split())
"""Common attributes of pictures. They put a concept into context, and are preserved."""

COMPARED = WORDS[::6]
"""Some of them, with which a word is compared to find out whether a text encoder knows it."""
