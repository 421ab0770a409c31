"""Which words a text encoder takes for the nearest to a name, which for the same, and whether it knows the name."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

import torch
import torch.nn.functional as F

from .encoder import Encoder, batched
from .names import EMBEDDING, letters, others, spelled
from .phrases import say
from .vocabulary import COMPARED, EVERYDAY, KINDS, WORDS

TAIL = 20
"""Tokens from a name's last one on by which names are compared."""
SAME = 0.9
"""Cosine from which on two words are one for the text encoder."""
SAME_SPELLING, SAME_IF_SPELLED_ALIKE = 0.7, 0.6
"""Share of letters in common, and the cosine from which on two words so much alike are one: "grey" and "gray"."""
TWINS = 3
"""So many unrelated words that a name is the same as mean that the text encoder does not know the name."""
KIN = 0.5
"""Share of the cosine of a name's nearest word below which another text names another kind of thing."""
FITTING = 24
"""So many of the words nearest to a name are looked at for the one that takes its place."""
FULL = 0.8
"""Share of what a network reads of a name, from which on it reads as much of another word."""
NONSENSE = 12
"""Made-up words of as many tokens as a name that the name is compared with."""
EXACTLY = 0.999
"""Cosine of what the text encoder reads as one and the same."""
COMMON_NAME = 24
"""Tokens of a name by which it is compared; more would leave nothing behind it to compare."""

COARSE = tuple(dict.fromkeys((*WORDS[::5], *EVERYDAY)))
"""Words of all kinds, which are looked at first with a text encoder that is slow."""
FINE = 20
"""So many more are then looked at: those of the same kinds as the nearest of these."""
CLUSTERED = 0.6
"""Cosine of made-up words from which on they are one to a text encoder, and a name that is like them is, too."""
LISTS = (tuple(dict.fromkeys((*WORDS, *EVERYDAY))), COMPARED, COARSE)
"""Words that names are compared with."""


@dataclass(frozen=True)
class Nearness:
    """Cosines [names, words] between what names and words leave behind themselves in a text."""

    words: Sequence[str]
    cosines: torch.Tensor

    def rows(self) -> list[list[str]]:
        """For each name, the words from the nearest to the farthest."""
        order = self.cosines.argsort(dim=1, descending=True)
        return [[self.words[i] for i in row] for row in order.tolist()]

    def apart(self, names: Sequence[str]) -> Nearness:
        """Without the words that are one with any of the names; all of them, when none would be left."""
        alike = torch.tensor(
            [[SequenceMatcher(None, letters(a), letters(b)).ratio() for b in self.words] for a in names]
        )
        limit = torch.where(alike >= SAME_SPELLING, SAME_IF_SPELLED_ALIKE, SAME)
        other = (self.cosines < limit).all(0).nonzero().flatten().tolist()
        if not other or len(other) == len(self.words):
            return self
        return Nearness([self.words[i] for i in other], self.cosines[:, other])


def common_words(encode: Encoder, names: Sequence[str]) -> list[str]:
    """Words among which a name's neighbours are looked for: all common ones, or with a slow text encoder some of all
    kinds, and the others of the nearest kinds."""
    if not encode.is_large:
        return [*WORDS, *EVERYDAY]
    looked_at = {*COARSE, *of_their_kinds(encode, names)}
    return [word for word in dict.fromkeys((*WORDS, *EVERYDAY)) if word in looked_at]


def of_their_kinds(encode: Encoder, names: Sequence[str]) -> list[str]:
    """Common words of the kinds nearest to names: all in ``COARSE``, and ``FINE`` others."""
    near = nearness(encode, names, others(COARSE, names))
    found: dict[str, None] = {}
    for name, cosines in zip(names, near.cosines.tolist(), strict=True):
        room = FINE // len(names)
        for kind in kinds_near(name, dict(zip(near.words, cosines, strict=True))):
            new = [word for word in others(kind, names) if word not in COARSE and word not in found]
            found |= dict.fromkeys([*(word for word in others(kind, names) if word in COARSE), *new[:room]])
            room -= len(new)
            if room <= 0:
                break
    return list(found)


def kinds_near(name: str, cosines: Mapping[str, float]) -> list[Sequence[str]]:
    """The kinds of common words, those first that the name is of, then those whose two nearest known words are."""

    def nearest(kind: Sequence[str]) -> float:
        known = sorted((cosines[word] for word in kind if word in cosines), reverse=True)[:2]
        return sum(known) / len(known) if known else -1.0

    return sorted(KINDS, key=lambda kind: (name.lower() not in kind, -nearest(kind)))


def compared(encode: Encoder, words: Sequence[str] = COMPARED) -> Sequence[str]:
    """Words that names are compared with; with a slow text encoder those that have been read in any case."""
    return COARSE if encode.is_large else words


def neighbours(encode: Encoder, names: Sequence[str], words: Sequence[str]) -> list[list[str]]:
    """For each name, the words from the nearest to the farthest, without those that are one with a name."""
    return nearness(encode, names, words).apart(names).rows()


def nearness(encode: Encoder, names: Sequence[str], words: Sequence[str]) -> Nearness:
    """How near words are to names, by what they leave behind themselves in a text.

    Compared are the encodings of "a WORD" from its last token on, centred, because all encodings share most of their
    length.
    """
    tails = _tails(encode, [encode.shortened(text, COMMON_NAME) for text in (*names, *words)])
    return Nearness(words, tails[: len(names)] @ tails[len(names) :].T)


def fullest(
    encode: Encoder, names: Sequence[str], near: Nearness, rows: Sequence[Sequence[str]],
    weights: Sequence[torch.Tensor],
) -> list[list[str]]:  # fmt: skip
    """For each name, the words nearest to it again, those in front that a network reads as much of as of the name.

    ``rows``: of ``near``, from the nearest on; ``weights`` [out, d] read the encodings. What a network reads of a word
    is W (x - the mean of x) for the encodings x that it leaves behind itself. Of a word that it has hardly seen it
    reads little, however near the word is by chance, and what is drawn for it is left to chance, too. So where the
    nearest has less than ``FULL`` of the name's length, a word's cosine counts by the square of its share of that
    length, at most 1.
    """
    tails = _stacked(encode, [*names, *near.words])
    centred = {text: tail - tails.mean(0) for text, tail in zip([*names, *near.words], tails, strict=True)}
    out = []
    for name, row, cosines in zip(names, rows, near.cosines.tolist(), strict=True):
        own, cosine = read_length(centred[name], weights), dict(zip(near.words, cosines, strict=True))
        share = {word: min(1.0, read_length(centred[word], weights) / max(own, 1e-9)) for word in row[:FITTING]}
        first = sorted(share, key=lambda word: -cosine[word] * share[word] ** 2)
        out.append([*first, *row[FITTING:]] if row and share[row[0]] < FULL else list(row))
    return out


def read_length(tail: torch.Tensor, weights: Sequence[torch.Tensor]) -> float:
    """The length of what weights [out, d] make of a tail [tokens, d]."""
    return sum(float((tail @ weight.T).square().sum()) for weight in weights) ** 0.5


def kinship(encode: Encoder, names: Sequence[str], texts: Sequence[str], words: Sequence[str]) -> list[float]:
    """How near each name is to the text beside it, as a share of how near the nearest of common words is.

    Infinite where the two are one for the text encoder; below ``KIN`` they are other kinds of things.
    """
    own, *common = nearness(encode, names, [*texts, *words]).cosines.split([len(texts), len(words)], 1)
    cosines = own.diagonal()
    nearest = common[0].masked_fill(common[0] >= SAME, -1).amax(1).clamp_min(1e-3)
    return [float("inf") if c >= SAME else c / n for c, n in zip(cosines.tolist(), nearest.tolist(), strict=True)]


def _tails(encode: Encoder, texts: Sequence[str], centred_on: int | None = None) -> torch.Tensor:
    """Directions [texts, tokens * d] of the encodings of "a TEXT" from the text's last token on, less their mean, which
    is that of the first ``centred_on`` texts."""
    tails = _stacked(encode, texts).flatten(1)
    return F.normalize(tails - tails[:centred_on].mean(0), dim=1)


def _stacked(encode: Encoder, texts: Sequence[str]) -> torch.Tensor:
    """The encodings [texts, tokens, d] of "a TEXT" from each text's last token on, as many as all of them have."""
    last = [encode.place("a {}", text).stop - 1 for text in texts]
    phrases = [say("a {}", text) for text in texts]
    _read_tails(encode, dict(zip(phrases, last, strict=True)))
    count = min(len(encode.tails[phrase]) for phrase in phrases)
    return torch.stack([encode.tails[phrase][:count] for phrase in phrases])


def _read_tails(encode: Encoder, last: Mapping[str, int]) -> None:
    """Reads the ends of phrases, for ``encode.tails``, from their texts' last tokens on: ``last``.

    Common words are read as a list, where most of one is asked for: other names are compared with the same ones.
    """
    new = [phrase for phrase in last if phrase not in encode.tails]
    read: dict[str, torch.Tensor] = {}
    for words in LISTS:
        if len({say("a {}", word) for word in words} & set(new) - set(read)) > len(words) / 2:
            read |= _listed_tails(encode, words)
    rest = [phrase for phrase in new if phrase not in read]
    for part, rows in zip(batched(rest), encode.stream(rest), strict=True):
        read |= {p: row[last[p] : last[p] + TAIL].clone() for p, row in zip(part, rows, strict=True)}
    encode.tails |= {phrase: read[phrase] for phrase in new}


def _listed_tails(encode: Encoder, words: Sequence[str]) -> dict[str, torch.Tensor]:
    places = {say("a {}", word): encode.place("a {}", word).stop - 1 for word in words}
    return encode.listed("tails", list(places), lambda phrase, row: row[places[phrase] : places[phrase] + TAIL].clone())


# ---------------------------------------------------------------- does the encoder know a word


def unknown(encode: Encoder, names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The names that the text encoder does not know: it takes them for what it takes made-up words for, or for one and
    the same as several unrelated words.

    ``words``: common words to compare with. An embedding is always known.
    """
    typed = [name for name in names if not name.startswith(EMBEDDING)]
    if not typed:
        return []
    lengths = sorted({len(encode.content(encode.shortened(name, COMMON_NAME))) for name in typed})
    made_up = {count: _nonsense(encode, count) for count in lengths}
    strange = [word for group in made_up.values() for word in group]
    if encode.is_large:  # the same for all names of as many tokens
        for group in filter(None, made_up.values()):
            encode.tails |= _listed_tails(encode, group)
    texts = [encode.shortened(text, COMMON_NAME) for text in (*words, *typed, *strange)]
    rest, own, middle = _tails(encode, texts, len(words)).split([len(words), len(typed), len(strange)])
    groups = dict(zip(lengths, middle.split([len(made_up[n]) for n in lengths]), strict=True))
    out = []
    for name, tail in zip(typed, own, strict=True):
        group = groups[len(encode.content(encode.shortened(name, COMMON_NAME)))]
        twins = [word for word, cosine in zip(words, (rest @ tail).tolist(), strict=True) if cosine > EXACTLY]
        if len(others(twins, [name])) >= TWINS or _is_one_of(tail, group):
            out.append(name)
    return out


def _is_one_of(tail: torch.Tensor, group: torch.Tensor) -> bool:
    """Whether a tail is as near to made-up words as these are to each other, in the middle."""
    if len(group) < NONSENSE // 2:
        return False
    each = group @ group.T - 2 * torch.eye(len(group))
    usual = float(each.topk(3, dim=1).values.mean(1).median())
    # where made-up words differ as much as any others, the text encoder makes something of each
    return usual >= CLUSTERED and float((group @ tail).topk(3).values.mean()) >= usual - 1e-4


def _nonsense(encode: Encoder, tokens: int) -> list[str]:
    """Made-up words of so many tokens, always the same ones; none for one token, which are words of their own."""
    draw, out = random.Random(tokens), []
    if tokens > 1:
        for _ in range(NONSENSE * 20):
            word = "".join(draw.choice("bcdfghjklmnpqrstvwxz") for _ in range(round(tokens * draw.uniform(1.2, 2.6))))
            if len(encode.content(word)) == tokens:
                out.append(word)
            if len(out) == NONSENSE:
                break
    return out


def suggestion(encode: Encoder, name: str, words: Sequence[str]) -> str | None:
    """The word that is spelled most like a name and that the text encoder knows, if there is one."""
    near = get_close_matches(spelled(name), [spelled(word) for word in words], n=3, cutoff=0.7)
    known = [word for word in near if word not in unknown(encode, near, compared(encode, words))]
    return known[0] if known else None
