"""What a user asks for in a node's text fields, read and known to be usable: names, targets, and what is to stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .artifact import ErasureError
from .families import family_of
from .host.subject import subject
from .protocols import Clip, Model
from .texts.encoder import Encoder
from .texts.names import (
    Name,
    Names,
    is_form_of,
    is_said,
    listing,
    others,
    plain,
    quoted,
    read_field,
    spelled,
)

WHOLE_PROMPT = 5
"""Words of a name from which on it is more likely a prompt."""

OpenFile = Callable[[str], str]


@dataclass(frozen=True)
class Request:
    """What is to be erased, and what is to stay.

    ``names``: the concepts, with what their lines say of target and strength. ``preserve``: texts to keep, none to
    have them found. ``contexts``: texts beside which alone a name is erased; none for everywhere. ``notes``: sentences
    on what was read in another way than typed. ``warnings``: on what will hardly do what is meant. ``weights``: prompt
    weights of the names, which nothing uses.
    """

    names: Sequence[Name]
    preserve: Sequence[str] = ()
    contexts: Sequence[str] = ()
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    weights: Sequence[str] = ()

    @property
    def texts(self) -> list[str]:
        """The names alone."""
        return [name.text for name in self.names]


def read_request(
    model: Model, encode: Encoder, concept: str, preserve: str, only_in: str = "", open_file: OpenFile | None = None
) -> Request:
    """Reads the fields, and checks them against the text encoder and the model.

    Raises ErasureError for an empty concept, a name that is also to be preserved, an embedding that is not there, or a
    CLIP of another width.
    """
    names = names_in(concept, open_file)
    preserved, contexts = (read_field(text, open_file) for text in (preserve, only_in))
    fields = (names, preserved, contexts)
    for name in [*names.texts, *preserved.texts, *contexts.texts]:
        encode.name_tokens(name)
    entries = [_readable(encode, entry) for entry in names.entries]
    check_width(model, encode)
    _check_apart([entry.text for entry in entries], preserved.texts, contexts.texts)
    notes = [note for field in fields for note in field.notes]
    notes += [
        f"{quoted([text])} stands in 'preserve', where arrows and strengths mean nothing."
        for text in (entry.text for entry in preserved.entries if entry.target is not None or entry.strength != 1)
    ]
    notes += [
        f"{quoted([new.text])} is as much of its name as the text encoder reads at once."
        for old, new in zip(names.entries, entries, strict=True)
        if old != new
    ]
    entries, warnings = aiming_elsewhere(entries)
    warnings += _warnings(entries, preserved.texts)
    if long := [text for text in preserved.texts if not encode.fits(text)]:
        warnings.append(
            f"{listing(long, 'preserved text', 'preserved texts')} cannot be read at once: only the beginning is held."
        )
    return Request(entries, preserved.texts, contexts.texts, notes, warnings, names.weights)


def names_in(concept: str, open_file: OpenFile | None = None) -> Names:
    """The names of the field of concepts. Raises ErasureError where there are none."""
    names = read_field(concept, open_file)
    if not names.entries:
        raise ErasureError(
            " ".join(["The concept is empty: type what is to be erased, one name a line.", *names.notes])
        )
    return names


def aiming_elsewhere(names: Sequence[Name]) -> tuple[list[Name], list[str]]:
    """The names, without those targets that say another of them, and sentences on these: prompts for a name whose
    place another erased one took would draw that one."""
    erased = [
        name for name in names
        if name.target and any(is_said(other.text, name.target) for other in names if other is not name)
    ]  # fmt: skip
    warnings = [
        f"{quoted([name.target])} is erased, too, so it does not take the place of {quoted([name.text])}."
        for name in erased
        if name.target
    ]
    return [replace(name, target=None) if name in erased else name for name in names], warnings


def check_reads(clip: Clip, *models: Model) -> None:
    """Raises ErasureError for a CLIP whose encodings one of some models cannot read, before anything is drawn; models
    of kinds that are not known are passed over."""
    for model in models if clip is not None else ():
        if hasattr(model, "model") and family_of(model.model) is not None:
            check_width(model, Encoder(clip, entry=subject(model)))


def check_width(model: Model, encode: Encoder) -> None:
    """Raises ErasureError for a CLIP whose encodings the model cannot read."""
    width = encode.rows([""])[0].shape[-1]
    expected = subject(model).width
    if width != expected:
        raise ErasureError(
            f"The CLIP's encodings are {width} wide and the model reads {expected}: connect the CLIP that "
            "belongs to this model."
        )


def _readable(encode: Encoder, entry: Name) -> Name:
    return Name(encode.shortened(entry.text), entry.target, entry.strength)


def _check_apart(names: Sequence[str], preserved: Sequence[str], contexts: Sequence[str]) -> None:
    """Raises ErasureError for a name that stands in two fields that contradict each other."""
    for name in names:
        for text in preserved:
            if spelled(name) == spelled(text):
                raise ErasureError(
                    f"'{plain(text)}' is both to be erased and to be preserved: take it out of one of the two lists."
                )
        for text in contexts:
            if is_form_of(name, text):
                raise ErasureError(
                    f"'{plain(text)}' is the concept itself, so it cannot say beside what it is erased: type another "
                    "text into 'only_in'."
                )


def _warnings(entries: Sequence[Name], preserved: Sequence[str]) -> list[str]:
    warnings = []
    for entry in entries:
        name = quoted([entry.text])
        if len(entry.text.split()) >= WHOLE_PROMPT:
            warnings.append(
                f"{name} reads like a whole prompt: only prompts that say all of it lose it, so type the name alone."
            )
        if entry.target and not others([entry.target], [entry.text]):
            warnings.append(
                f"The target {quoted([entry.target])} has a word in common with {name}, which will still be drawn."
            )
        mentions = [text for text in preserved if is_said(entry.text, text)]
        if mentions:
            warnings.append(
                f"You preserve {listing(mentions, 'text', 'texts')}, with {name} in it: prompts like that may still "
                "show the concept."
            )
    return warnings
