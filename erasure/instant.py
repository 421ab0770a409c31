"""From a MODEL, a CLIP and a few texts to an ``Erasure`` without any training: closed-form edits of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import cycle, product
from json import dumps, loads

import torch
import torch.nn.functional as F

from . import inspection, only_in
from .artifact import NOTHING, Change, Erasure, ErasureError, Full, LowRank, Metadata
from .closed_form import CLOSED_FORM
from .closed_form.balance import balance
from .closed_form.problem import Problem, Scales, together
from .closed_form.restoring import restoration
from .closed_form.textmap import Edit, moment
from .history import Erased, erased_from, leading_to, preserved_on
from .host.attach import changes_in_front, weights_now
from .host.subject import subject
from .host.weights import Weights
from .parts.delta import add, changing
from .protocols import Clip, Model
from .request import OpenFile, Request, read_request
from .solved import solved
from .steps import Steps
from .targets import anchors_for, check_target
from .texts.encoder import Encoder, paired
from .texts.names import EMBEDDING, is_form_of, is_said, listing, others, quoted
from .texts.neighbours import common_words, compared, fullest, nearness, of_their_kinds, unknown
from .texts.phrases import GENERIC, IN_CONTEXT, PHRASINGS, say, spread
from .texts.pooled import Pooled
from .texts.vocabulary import EVERYDAY, WORDS
from .verdict import Finding, Verdict
from .version import host_version, pack_version

TARGETS = ("nearest neighbour", "empty prompt", "anchor")
TOKENS = ("all in context", "last of the name")
BARE = "Only the last token of a bare name is moved ({}), so longer prompts may still draw it: see 'tokens'."
NEIGHBOURS = 8
"""How many of the nearest common words to preserve, besides the everyday ones, when the user names none."""
CHOICES = 5
"""How many other words to offer as a target, besides the one in use."""
MOVED = 400
"""The most phrases that are moved, whatever the number of concepts (but at least one for each)."""
HELD, FEW_HELD = 24, 8
"""In how many phrases a name is held that was erased before; few with a slow text encoder."""
MANY = 5
"""From so many erased names on, words are found to preserve beside those that were typed."""
BESIDE = 12
"""How many everyday texts a concept is said beside, when the user names nothing to preserve."""
MANY_BESIDE, FEW_BESIDE = 24, 4
"""How many common words a concept is said beside in the pooled text; few with a slow text encoder."""
APART = 8
"""How many of the texts behind it in the list each everyday text is paired with."""
IN_TURN = 3
"""Each phrase is used with one in ``IN_TURN`` of the concepts' neighbours."""
SAMPLE = 20_000
"""About how many preserved encodings a method looks at one by one, where it does."""
LISTED = 400
"""The most preserved texts that are remembered on disk."""
READ = 4
"""By at most so many weights is seen how much a network reads of a word."""
TOTAL_RANK = 64
"""No change has a higher rank than this, unless more concepts than this are erased."""


@dataclass(frozen=True)
class Instant:
    """What a closed-form erasure can be told.

    ``target``: what takes a concept's place: its nearest neighbour in the preserve set, nothing (what the phrase says
    without it), or the text ``anchor``. ``tokens``: which encodings are moved, those of phrases from the name's last
    token on, or the last one of the bare name, as the papers have it. ``rank``: of the change, for each concept; 0 for
    the exact one. ``pooled``: whether what reads the pooled text changes, too, in families that have it.
    """

    method: str = "uce"
    target: str = TARGETS[0]
    anchor: str = ""
    tokens: str = TOKENS[0]
    weights: str = "keys+values"
    rank: int = 8
    scales: Scales = field(default_factory=Scales)
    pooled: bool = True


@dataclass(frozen=True)
class Texts:
    """The concepts' names, the text that takes the place of each (empty: nothing), and what is preserved.

    ``near``: preserved texts that are nearest to each concept and most easily pulled along. ``strengths``: how much of
    its way each concept is moved; none for all of it. ``contexts``: texts beside which alone names are moved; none for
    everywhere. ``held``: what was erased before, which stays so. ``also``: texts that are preserved beside ``kept``:
    what erasures in front preserve, and words that are found, where so many names are erased that the given texts are
    too few. ``choices``: what each concept could become, the nearest word first. ``given``: whether it was said what is
    preserved; else these are words close to the concepts, and everyday ones. ``restoring``: whether what erasures in
    front have moved besides their concepts is put back.
    """

    names: Sequence[str]
    targets: Sequence[str]
    kept: Sequence[str]
    near: Sequence[Sequence[str]]
    strengths: Sequence[float] = ()
    contexts: Sequence[str] = ()
    held: Sequence[Erased] = ()
    also: Sequence[str] = ()
    choices: Sequence[Sequence[str]] = ()
    given: bool = True
    restoring: bool = True


def erase_instantly(
    model: Model, clip: Clip, concepts: str, preserve: str, settings: Instant,
    steps: Steps = Steps(),  # noqa: B008
    only_in: str = "", open_file: OpenFile | None = None,
) -> Erasure:  # fmt: skip
    """Solves for all concepts of a field at once, preserving the texts of another. Raises ErasureError.

    What was erased from the model before stays erased. ``only_in``: texts beside which alone the concepts are erased.
    ``steps`` is told how far it is; ``open_file``: see ``texts.names.read_field``. What was asked for before is not
    solved again.
    """
    encode = Encoder(clip, steps, subject(model))
    encode.pools = settings.pooled and subject(model).family.pooled_entry(model.model) is not None
    with torch.inference_mode(False), torch.no_grad():
        request = read_request(model, encode, concepts, preserve, only_in, open_file)

        def solve() -> Erasure:
            steps.begin("Reading common words", 0.4)
            texts = choose_texts(encode, request, settings, erased_from(model), reading(model))
            texts = beside_those_in_front(texts, preserved_on(model))
            erasure = solve_texts(model, encode, texts, settings, steps)
            steps.begin("Checking", 1.0)
            return examined(model, encode, request, erasure)

        return solved(model, encode, request, _typed(request, settings), settings, solve)


def _typed(request: Request, settings: Instant) -> list[str]:
    """The texts that a user has typed."""
    targets = [name.target for name in request.names if name.target]
    return [*request.texts, *targets, *request.preserve, *request.contexts, settings.anchor]


def examined(model: Model, encode: Encoder, request: Request, erasure: Erasure) -> Erasure:
    """The erasure with its verdict: what it does to the MODEL's weights, and what is doubtful about its words."""
    findings, strange = inspection.knowledge(encode, erasure.names, erasure.targets)
    findings += [Finding("⚠", warning) for warning in request.warnings]
    if loads(erasure.metadata.settings)["tokens"] == TOKENS[1]:
        findings.append(Finding("⚠", BARE.format(listing(erasure.names))))
    known = [(name, target) for name, target in zip(erasure.names, erasure.targets, strict=True) if name not in strange]
    if known and not request.contexts:
        weights = inspection.base_weights(model, erasure)
        findings += inspection.apart(weights, erasure.delta, inspection.parts_of(encode, *zip(*known, strict=True)))
    if not request.contexts:
        findings += inspection.in_pooled(encode, model, erasure, known)
    if len(erasure.names) > inspection.MOST_CONCEPTS:
        findings += inspection.beyond(encode, inspection.base_weights(model, erasure), erasure, strange)
    before = erased_from(model)
    findings += [Finding("⚠", sentence) for sentence in aimed_at_erased(request, before)]
    how = ['To erase a name less or more, type "circle : 0.8".'] if request.weights else []
    notes = "\n".join([f"Read {listing(request.texts)}.", *request.notes, *how, *in_front(request, erasure, before)])
    metadata = replace(
        erasure.metadata, doubts=Verdict(tuple(findings)).as_json(), unknown="\n".join(strange), notes=notes
    )
    erasure = replace(erasure, metadata=metadata)
    return replace(erasure, metadata=replace(metadata, verdict=inspection.full(model, erasure).as_json()))


def aimed_at_erased(request: Request, before: Sequence[Erased]) -> list[str]:
    """Sentences on targets that a user typed, and that a node in front has erased: what became of them is drawn."""
    return [
        f"{quoted([name.target])} is erased by a node in front: what took its place is drawn for "
        f"{quoted([name.text])}, too."
        for name in request.names
        if name.target and any(is_form_of(name.target, move.name) for move in before)
        and not any(is_form_of(name.target, text) for text in request.texts)
    ]  # fmt: skip


def in_front(request: Request, erasure: Erasure, before: Sequence[Erased]) -> list[str]:
    """Sentences on what nodes in front have erased: the same names, and names that became one of these."""
    again = [name for name in request.texts if any(is_form_of(name, move.name) for move in before)]
    sentences = [f"Erased already by a node in front: {listing(again)}."] if again else []
    count = len(request.texts)
    return sentences + [
        f"{quoted([name])}, erased by a node in front, now becomes {quoted([target])}."
        for name, target in zip(erasure.names[count:], erasure.targets[count:], strict=True)
        if target
    ]


# ---------------------------------------------------------------- which texts


def choose_texts(
    encode: Encoder, request: Request, settings: Instant, erased: Sequence[Erased] = (),
    reading: Sequence[torch.Tensor] = (),
) -> Texts:  # fmt: skip
    """What is erased, to what, and what stays; what the user leaves open is looked for in the text encoder.

    ``reading``: some of the weights that read the text, by which a target is chosen among the nearest common words.
    ``erased``: what was erased from the model before. It is neither aimed at nor preserved, and what has become a
    concept that is erased now moves on with it.
    """
    chained = leading_to(erased, request.texts)
    names = [*request.texts, *chained]
    before = [move.name for move in erased]
    taken = [*names, *before, *request.contexts]
    written = [text for text in encode.beside(names, request.preserve) if not text.startswith(EMBEDDING)]
    own = others(written, taken)
    nearest = nearness(encode, names, own or others(common_words(encode, names), taken)).apart(names)
    near = nearest.rows()
    aimed = _aimed(encode, near)
    # what is nearest to a name of which the encoder knows a part are words it does not know, which hold nothing
    near = [row if row[:1] == known[:1] else known for row, known in zip(near, aimed, strict=True)]
    preserve = list(request.preserve)
    if not preserve:
        alike = of_their_kinds(encode, names) if encode.is_large else []  # most of them have been read
        alike = [word for word in nearest.words if word in alike]  # without those that are one with a name
        preserve = others([*(word for row in near for word in row[:NEIGHBOURS]), *alike, *EVERYDAY], taken)
    if reading:
        aimed = fullest(encode, names, nearest, aimed, reading)
    targets = _targets(encode, request, aimed, settings)
    targets += [targets[request.texts.index(root)] for root in chained.values()]
    strengths = [name.strength for name in request.names] + [1.0] * (len(names) - len(request.names))
    held = list({move.name: move for move in erased if move.name not in names}.values())
    some = [row[: siblings_for(names)] for row in near]
    choices = [row[:CHOICES] for row in aimed]
    also: list[str] = []
    if request.preserve and len(names) + len(held) >= MANY:
        gone = [*names, *(move.name for move in held)]
        closest = nearness(encode, gone, others(common_words(encode, gone), taken)).apart(gone).rows()
        also = others([*(word for row in closest for word in row[:NEIGHBOURS]), *EVERYDAY], [*taken, *preserve])
    texts = Texts(
        names, targets, preserve, some, strengths, request.contexts, held, also, choices, bool(request.preserve)
    )
    if len(common := plain_texts(texts) if texts.given else everyday_texts(encode.is_large)) <= LISTED:
        encode.read_list(common)
    return texts


def beside_those_in_front(texts: Texts, preserved: Sequence[str]) -> Texts:
    """The texts with what erasures in front preserve, which this one preserves, too."""
    taken = [*texts.names, *(move.name for move in texts.held), *texts.contexts, *texts.kept, *texts.also]
    return replace(texts, also=[*texts.also, *others(preserved, taken)])


def reading(model: Model) -> list[torch.Tensor]:
    """Some of the weights [out, d] of a MODEL that read the text, as they were before anything was erased. On the CPU,
    as the encodings are: the host keeps a MODEL that has drawn on the GPU."""
    names, weights = subject(model).entry, Weights(model)
    return [weights[name].detach().float().cpu() for name in names[:: -(-len(names) // READ)]]


def _aimed(encode: Encoder, near: Sequence[Sequence[str]]) -> list[list[str]]:
    """The nearest texts of each concept, without those in front that the text encoder does not know."""
    strange: set[str] = set()
    for start in range(0, max(map(len, near), default=0), NEIGHBOURS):
        lost = [row for row in near if strange.issuperset(row[:start])]
        if not lost:
            break
        words = dict.fromkeys(word for row in lost for word in row[start : start + NEIGHBOURS])
        strange |= set(unknown(encode, list(words), compared(encode)))
    return [[word for word in row if word not in strange] or list(row) for row in near]


def _targets(encode: Encoder, request: Request, near: Sequence[Sequence[str]], settings: Instant) -> list[str]:
    """What takes the place of each name of a request: what its line says, or what the settings say of all."""
    if settings.target == "anchor":
        targets = anchors_for(settings.anchor, request.texts)
    else:
        targets = [row[0] if settings.target == TARGETS[0] and row else "" for row in near[: len(request.names)]]
        pairs = zip(request.names, targets, strict=True)
        if settings.target == TARGETS[0] and (lost := [n.text for n, t in pairs if n.target is None and not t]):
            raise ErasureError(
                f"No common word is left to take the place of {listing(lost, 'concept', 'concepts')}: erase fewer at "
                "once, or say in each line what takes its place, 'name -> target'."
            )
    targets = [t if name.target is None else name.target for name, t in zip(request.names, targets, strict=True)]
    for name, target in zip(request.names, targets, strict=True):
        if name.target:
            check_target(target, [name.text])
        if target:
            encode.name_tokens(target)  # refuses what the encoder cannot read, as a missing embedding
    return targets


def siblings_for(names: Sequence[str]) -> int:
    """So many of its neighbours are preserved in a concept's own phrases: fewer of them with many concepts."""
    return min(NEIGHBOURS - 2, 12 // len(names))


# ---------------------------------------------------------------- from texts to a change of the weights


def solve_texts(model: Model, encode: Encoder, texts: Texts, settings: Instant, steps: Steps = Steps()) -> Erasure:  # noqa: B008
    """The closed-form erasure for texts that have been chosen; call outside inference mode, without gradients."""
    here = subject(model)
    weights = weights_now(model, here.family.text_entry(model.model, settings.weights))
    steps.begin("Reading texts", 0.8)
    pooled = pooled_delta(model, encode, texts, settings) if settings.pooled else {}
    problem = pose(encode, texts, weights, settings)
    steps.begin("Solving", 0.9)
    front = changes_in_front(model, list(weights)) if texts.restoring else {}
    delta = solve(problem, weights, front, settings) | pooled
    metadata = Metadata(
        method=settings.method,
        concept="\n".join(texts.names),
        target="\n".join(text or NOTHING for text in texts.targets),
        strengths="\n".join(f"{s:g}" for s in texts.strengths) if any(s != 1 for s in texts.strengths) else "",
        preserve="\n".join(texts.kept),
        only_in="\n".join(texts.contexts),
        **here.stamp(),
        settings=dumps(asdict(settings)),
        pack_version=pack_version(),
        host_version=host_version(),
    )
    near = [*dict.fromkeys(word for row in texts.near for word in row), *texts.kept]
    probes = inspection.probes_for(encode, texts.names, texts.targets, list(dict.fromkeys(near)), texts.contexts)
    return Erasure(metadata, changing(delta), probes, tuple(map(tuple, texts.choices)))


def pooled_delta(model: Model, encode: Encoder, texts: Texts, settings: Instant) -> dict[str, Change]:
    """The same for the pooled text, where the network reads one: a change of the columns that read it."""
    name = subject(model).family.pooled_entry(model.model)
    if name is None or not encode.has_pooled:
        return {}
    weight = weights_now(model, [name])[name]
    width = encode.pooled([""])[0].shape[1]
    if width > weight.shape[1]:  # of another text encoder than the network's
        return {}
    columns = {name: weight[:, :width]}
    problem = pose(Pooled(encode), texts, columns, settings, beside_common(texts, settings, encode.is_large))
    front = changes_in_front(model, [name]) if texts.restoring else {}
    front = {n: Full(one.dense()[:, :width]) for n, one in front.items()}
    change = solve(problem, columns, front, settings)[name]
    rest = weight.shape[1] - width
    return {name: LowRank(change.up, F.pad(change.down, (0, rest))) if isinstance(change, LowRank)
            else Full(F.pad(change.dense(), (0, rest)))}  # fmt: skip


def beside_common(texts: Texts, settings: Instant, few: bool) -> list[str]:
    """Templates that say a concept beside common words of all kinds, which the pooled text takes in with it; none where
    less than all that is said of it moves."""
    if texts.contexts or settings.tokens == TOKENS[1]:
        return []
    count = max(1, (FEW_BESIDE if few else MANY_BESIDE) // len(texts.names))
    words = others(WORDS[:: -(-len(WORDS) // count)], [*texts.names, *texts.targets])
    return [phrase.format(word) for phrase, word in zip(cycle(("{{}} {}", "{}, {{}}")), words, strict=False)]


def solve(
    problem: Problem, weights: Mapping[str, torch.Tensor], front: Mapping[str, Change], settings: Instant
) -> dict[str, Change]:
    """The change of each weight: what puts back what erasures in front have moved besides their concepts, if there are
    any, and the edit of the chosen method."""
    if not front:
        return edit_for(problem.holding(settings.scales), settings).delta(weights.items())
    rank = min(TOTAL_RANK, settings.rank * problem.all_erased)
    back = restoration(problem, settings.scales, weights, front, rank)
    weights = {name: weight + back[name].dense().to(weight) for name, weight in weights.items()}
    problem = replace(problem.holding(settings.scales), gram=lambda: gram(weights))
    edit = edit_for(problem, settings).delta(weights.items())
    return {name: add([(back[name], 1.0), (edit[name], 1.0)]) for name in weights}


def pose(
    encode: Encoder | Pooled, texts: Texts, weights: Mapping[str, torch.Tensor], settings: Instant,
    more: Sequence[str] = (),
) -> Problem:  # fmt: skip
    """The encodings that are to move, with where they go, and those that are to stay; ``more``: templates that move."""
    short = replace(texts, kept=encode.beside(texts.names, texts.kept))
    templates = ["{}"] if settings.tokens == TOKENS[1] else phrases(short)
    moved = list(zip(texts.names, texts.targets, strict=True))
    plain = [plain_texts(texts)] if texts.given else []
    found = texts.also if texts.given else [*texts.kept, *texts.also]
    if found or not texts.given:
        plain += [part for part in found_texts(replace(texts, kept=found), encode.is_large) if part]
    parts = [*plain, *siblings(texts, templates)]
    templates = [*templates, *more]
    if texts.contexts:
        parts += only_in.staying(texts.names, texts.contexts, short.kept)
    parts = [encode.some(part) for part in parts]
    count = sum(map(len, parts))
    strengths = texts.strengths or [1.0] * len(moved)
    some = templates[: held_in(len(moved) + len(texts.held), encode)]
    pairs = [*((pair, templates) for pair in moved), *(((move.name, move.target), some) for move in texts.held)]
    moving = [say(t, word) for pair, said in pairs for t in encode.fitting(said, *pair) for word in pair]
    with encode.telling([*moving, *(text for part in parts for text in part)]):
        encode.read(moving)
        moves = together(
            [
                _pairs(encode, templates, *pair, settings.tokens, s, texts.contexts)
                for pair, s in zip(moved, strengths, strict=True)
            ]
        )
        sums, kept = zip(*(preserved(encode, part, count) for part in parts), strict=True)
        held = {m: _pairs(encode, some, m.name, m.target, settings.tokens, m.strength or 0.0) for m in texts.held}
    near, empty = sums[len(plain) :], encode.rows([""])[0]
    front = [pair for move, pair in held.items() if move.strength is not None]
    still = [moment(source, 1 / len(source)) for move, (source, _) in held.items() if move.strength is None]
    return Problem(
        moves, len(moved), sum(sums), near, torch.cat(kept), empty, lambda: gram(weights),
        together(front) if front else None, len(front), torch.stack(still).sum(0) if still else None, len(still),
    )  # fmt: skip


def held_in(names: int, encode: Encoder | Pooled) -> int:
    """In how many templates each of the names that were erased before is held; fewer where reading is slow."""
    few = encode.is_large or isinstance(encode, Pooled)
    return max(1, min(FEW_HELD if few else HELD, MOVED // names))


def preserved(encode: Encoder | Pooled, texts: Sequence[str], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What texts add to the mean of p p^T over the encodings of ``count`` texts, [d, d], and some of their encodings:
    about ``SAMPLE`` of all ``count``.
    """
    total, some = torch.tensor(0.0), []
    longest = len(encode.rows([""])[0])
    known = None
    if texts == everyday_texts(encode.is_large):
        known = encode.sum_of_list("moment", texts, partial(moments, longest=longest))
    for rows in encode.stream(texts):
        for length, tokens in by_length(rows).items():
            if known is None:
                total = total + moment(tokens, 1 / (count * length))
            some.append(tokens[:: 1 + count * length // SAMPLE])
    return total if known is None else known / (count * longest), torch.cat(some)


def by_length(rows: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Encodings [n, d] of texts as one tensor [texts * n, d] for each n."""
    groups: dict[int, list[torch.Tensor]] = {}
    for row in rows:
        groups.setdefault(len(row), []).append(row)
    return {length: torch.cat(group) for length, group in groups.items()}


def moments(rows: Sequence[torch.Tensor], longest: int) -> torch.Tensor:
    """The sum of x x^T over the encodings [n, d] of texts, as if each text had ``longest`` of them: [d, d]."""
    return sum((moment(tokens, longest / length) for length, tokens in by_length(rows).items()), torch.tensor(0.0))


def phrases(texts: Texts) -> list[str]:
    """Templates that speak of a concept alone and beside preserved texts; fewer of them for many concepts."""
    beside = [p.format(concept="{}", kept=text) for text, p in product(texts.kept, IN_CONTEXT)]
    if not texts.given:
        everyday = [text for text in texts.kept if text in EVERYDAY] or texts.kept
        some = [everyday[i * len(everyday) // BESIDE] for i in range(BESIDE if everyday else 0)]
        beside = [p.format(concept="{}", kept=text) for text, p in zip(some, cycle(IN_CONTEXT), strict=False)]
    return [*PHRASINGS, *spread(beside, 64)][: max(1, MOVED // len(texts.names))]


def plain_texts(texts: Texts, pairs: int = 150, phrased: int = 5) -> list[str]:
    """The empty prompt, and preserved and generic texts in phrasings and in pairs.

    Preserved texts that say a concept themselves are said but for a little: more would keep the concept.
    """
    saying = [text for text in texts.kept if any(is_said(name, text) for name in texts.names)]
    kept = [*(text for text in texts.kept if text not in saying), *others(GENERIC, texts.names)]
    phrasings = PHRASINGS[: min(phrased, max(1, 500 // len(kept)))]
    apart = min(pairs // len(kept), len(kept) - 1)
    beside = [f"{a} {kept[(i + step) % len(kept)]}" for step in range(1, apart + 1) for i, a in enumerate(kept)]
    plain = [p.format(text) for text, p in product(kept, phrasings)]
    return ["", *plain, *beside, *(p.format(text) for text, p in product(saying, PHRASINGS[:1]))]


def found_texts(texts: Texts, few: bool) -> list[list[str]]:
    """What is said of preserved texts that were not given: everyday texts, the same for nearly every concept, and the
    words close to the concepts."""
    apart = [*texts.names, *(move.name for move in texts.held), *texts.contexts]
    everyday = [text for text in everyday_texts(few) if not any(is_said(name, text) for name in apart)]
    return [everyday, [say("a {}", text) for text in texts.kept if text not in EVERYDAY]]


@cache
def everyday_texts(few: bool = False) -> list[str]:
    """Everyday and generic texts in phrasings and in pairs, and the empty prompt; ``few`` of them in each."""
    count = len(EVERYDAY) + len(others(GENERIC, EVERYDAY))
    return plain_texts(Texts((), (), EVERYDAY, ()), (1 if few else APART) * count, 2 if few else 5)


def siblings(texts: Texts, templates: Sequence[str]) -> list[list[str]]:
    """For each preserved text nearest to the concepts, the concepts' own phrases said of it; some of them, in turn."""
    words = list(dict.fromkeys(word for row in texts.near for word in row))
    some = -(-len(words) // IN_TURN)
    said: dict[str, list[str]] = {}
    for i, template in enumerate(templates):
        for k in range(i * some, (i + 1) * some):
            word = words[k % len(words)]
            said.setdefault(word, []).append(say(template, word))
    return list(said.values())


def _pairs(
    encode: Encoder | Pooled,
    templates: Sequence[str],
    name: str,
    target: str,
    tokens: str,
    strength: float = 1.0,
    contexts: Sequence[str] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of one concept, or of it beside ``contexts``, and where they go, [n, d] each: so much of the way."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for part in encode.parts:
        if contexts:
            found += only_in.pairs(part, partial(aligned, part), name, target, contexts, EVERYDAY)
        else:
            found += [aligned(part, template, name, target) for template in part.fitting(templates, name, target)]
    if tokens == TOKENS[1]:
        found = [(source[:1], goal[:1]) for source, goal in found]
    source, goal = (torch.cat([pair[side] for pair in found]) for side in (0, 1))
    return source, goal if strength == 1 else torch.lerp(source, goal, strength)


def aligned(encode: Encoder | Pooled, template: str, name: str, replacement: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodings of a phrase from the name's last token on, beside those of the same phrase with the name replaced.

    Everything after the name is paired token by token, because contextual encodings spread a concept over what follows
    it, the end and the padding included.
    """
    source, goal = encode.rows([say(template, name), say(template, replacement)])
    last, there = paired(encode, template, name, replacement)
    count = min(len(source) - last, len(goal) - there)
    return source[last : last + count], goal[there : there + count]


def edit_for(problem: Problem, settings: Instant) -> Edit:
    """The edit of the chosen method, at the chosen rank."""
    edit = CLOSED_FORM[settings.method](balance(problem, settings.scales), settings.scales)
    if settings.rank and settings.tokens == TOKENS[0]:
        rank = min(TOTAL_RANK, settings.rank * problem.concepts)
        edit = edit.cut(max(problem.concepts, rank), problem.moves.moment)
    return edit


def gram(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of W^T W over projections [out, d]: [d, d], float64."""
    total = torch.tensor(0.0)
    for weight in weights.values():
        total = total + moment(weight).cpu()
    return total
