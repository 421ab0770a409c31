"""Prompts by kind: what each asks for, and how its pictures are counted."""

import torch

from concept_erasure.erasure.evaluation.by_kind import Request, Wording, by_kind, composed, counted, erased, preserved
from concept_erasure.erasure.evaluation.drawing import Drawing
from concept_erasure.erasure.evaluation.metrics import Share
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.texts.encoder import Encoder
from tests.host.test_schema import REPO


def test_a_concept_is_asked_for_in_every_way_that_is_known():
    asked = erased(Wording("circle", ["disc"], ["something round"]))
    assert [one.kind for one in asked] == ["name", "short", "long", "other name", "implicit"]
    assert all(one.lacks == "circle" and not one.shows for one in asked)
    assert [one.text for one in asked if "circle" not in one.text] == ["a photo of a disc", "something round"]
    assert len({one.text for one in asked}) == 5


def test_pairs_are_asked_for_with_and_without_what_is_erased():
    asked = composed("circle", ["star", "heart"])
    assert {one.kind for one in asked if one.lacks} == {f"{kind}, one erased" for kind in PAIRS}
    assert Request("left of", "a star to the left of a heart", ("star on the left", "heart on the right")) in asked
    assert (
        Request("two subjects, one erased", "a circle and a heart", ("heart on one side",), "circle on one side")
        in asked
    )
    assert preserved("near", ["ring"]) == [Request("near", "a photo of a ring", ("ring",))]


PAIRS = ("two subjects", "left of", "right of")


def test_several_are_asked_for_of_what_is_erased_and_of_others():
    asked = counted("fox", {"fox": "foxes", "owl": "owls"}, ["two", "three"])
    assert Request("number, one erased", "three foxes", ("three",), "fox") in asked
    assert Request("number", "two owls", ("two", "owl")) in asked and len(asked) == 4


@torch.inference_mode()
def test_the_erased_shape_goes_and_its_colour_stays(toys):
    """In the toy world a composition is a shape of a colour on a background."""

    def sees(pictures, label):
        return [rank == 0 for rank in toys.judge.ranks(pictures.permute(0, 3, 1, 2), [label] * len(pictures))]

    after = attach.erase(toys.model, load_erasure(REPO / "toyworld" / "erasures" / "circle.safetensors"))
    requests = [
        *erased(Wording("circle")), *preserved("near", ["ring"]),
        Request("binding", "a red circle on a dotted background", ("red", "dotted"), "circle"),
        Request("counterpart", "a red shape on a dotted background", ("red", "dotted")),
    ]  # fmt: skip
    how = Drawing((0, 1, 2, 3), 10, 3.0, width=64, height=64)
    before, found = (by_kind(model, Encoder(toys.clip), toys.vae, requests, how, sees) for model in (toys.model, after))
    assert before["name"] == {"gone": Share(0, 4)} and found["name"] == {"gone": Share(4, 4)}
    assert before["binding"] == {"gone": Share(0, 4), "shown": Share(4, 4)}
    assert found["binding"] == {"gone": Share(4, 4), "shown": Share(4, 4)}
    assert found["near"] == found["counterpart"] == {"shown": Share(4, 4)}
