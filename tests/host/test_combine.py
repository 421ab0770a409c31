"""Several erasures in one: the sum is exact, a joint solve is one solve, and what does not go together is said."""

from dataclasses import replace

import pytest
import torch

from concept_erasure.erasure import combine, jointly
from concept_erasure.erasure.artifact import ErasureError, Full, LowRank
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.history import added_up
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.latents import latent_shape
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant, erase_instantly
from concept_erasure.erasure.parts.delta import add
from concept_erasure.erasure.parts.prompt import PromptTensors
from concept_erasure.erasure.posing import TOKENS
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.verdict import read_verdict
from concept_erasure.nodes.combine import HOW, ErasureCombine
from concept_erasure.nodes.use import ErasureApply
from tests import worlds as loading
from tests.host.test_every_node import encoded
from tests.host.test_fit import sentence
from tests.host.tools import assert_close, difference, make_erasure, sample
from toyworld.worlds import WORLDS

KEPT = "square\nred\ndotted"
SMALL = Instant(tokens=TOKENS[1])


@pytest.fixture(scope="module")
def parts(model, clip):
    """Two instant erasures: 'circle' and 'star'."""
    return [erase_instantly(model, clip, name, KEPT, SMALL) for name in ("circle", "star")]


def dense(erasure, scale=1.0):
    return {name: scale * change.dense() for name, change in erasure.delta.items()}


def test_the_sum_is_exact_and_stays_small(parts):
    out = combine.combine(parts)
    for name, change in out.delta.items():
        torch.testing.assert_close(change.dense(), dense(parts[0])[name] + dense(parts[1])[name])
        assert isinstance(change, LowRank) and len(change.down) == 2
    assert out.metadata.concept == "circle\nstar" and len(out.metadata.target.splitlines()) == 2


def test_it_draws_what_two_nodes_in_a_row_draw(model, cond, parts):
    both = attach.erase(attach.erase(model, parts[0]), parts[1])
    base, stacked, one = (
        sample(m, cond("a circle"), cond("")) for m in (model, both, attach.erase(model, combine.combine(parts)))
    )
    assert_close(one, stacked, difference(base, stacked))


def test_wide_parts_are_written_out(model, parts):
    width = next(iter(parts[0].delta.values())).down.shape[1]
    wide = LowRank(torch.randn(20, width), torch.randn(width, width))
    out = add([(wide, 1.0), (wide, 0.5)])
    assert isinstance(out, Full)
    torch.testing.assert_close(out.full, 1.5 * wide.dense())
    assert add([(wide, 1.0)]) is wide


def test_prompts_stand_side_by_side(model, clip, parts, tmp_path):
    prompt = make_erasure(model, clip, "triangle", seed=3, delta=False)
    key = make_erasure(model, clip, "ring", seed=4, role="key")
    out = combine.combine([parts[0], prompt, key])
    assert [p.role for p in out.of(PromptTensors)] == ["eraser", "key"]
    assert set(out.metadata.method.split(" + ")) == {"uce", "kpop"}
    save_erasure(out, tmp_path / "x.safetensors")
    assert load_erasure(tmp_path / "x.safetensors").identity() == out.identity()


def test_the_key_of_a_part_is_known_on_the_whole(model, clip, parts):
    """Recover Concept must not say that the model lacks an erasure which it has as a part."""
    learned = make_erasure(model, clip, "ring", seed=4, role="key")
    erased = attach.erase(model, combine.combine([parts[0], learned]))
    assert not attach.missing(erased, learned)
    assert attach.missing(attach.erase(model, parts[0]), learned)


def test_solving_jointly_is_the_same_as_one_solve(model, clip, parts):
    to_red = replace(SMALL, target="anchor", anchor="red")
    alone = [erase_instantly(model, clip, name, KEPT, to_red) for name in ("circle", "star")]
    joint = jointly.solve_jointly(model, clip, alone)
    once = erase_instantly(model, clip, "circle\nstar", KEPT, to_red)
    assert joint.identity() == once.identity()
    assert joint.metadata.concept == once.metadata.concept


def test_a_target_that_is_erased_itself_gives_way(model, clip):
    to_star = erase_instantly(model, clip, "circle", KEPT, Instant(target="anchor", anchor="star"))
    star = erase_instantly(model, clip, "star", KEPT, SMALL)
    joint = jointly.solve_jointly(model, clip, [to_star, star])
    targets = joint.metadata.target.splitlines()
    assert len(targets) == 2 and set(targets) <= set(KEPT.splitlines())
    verdict = read_verdict(joint.metadata.verdict).text()
    assert '"star" is erased, too, so it does not take the place of "circle"' in verdict


def test_weights_follow_the_prompt(clip, parts):
    near = combine.elastic_weights(clip, "a circle", parts)
    other = combine.elastic_weights(clip, "a star", parts)
    assert near[0] > near[1] and other[1] > other[0]
    assert sum(w * w for w in near) == pytest.approx(1.0)
    out = combine.combine(parts, near)
    name = next(iter(out.delta))
    torch.testing.assert_close(out.delta[name].dense(), dense(parts[0], near[0])[name] + dense(parts[1], near[1])[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, b: [a], "it takes two"),
        (lambda a, b: [a, a], "connected twice"),
        (lambda a, b: [a, replace(b, metadata=replace(b.metadata, family="Other", context_dim="64"))], "one family"),
        (lambda a, b: [a, replace(b, metadata=replace(b.metadata, fingerprint="X:other:values"))], "one family"),
    ],
)
def test_what_cannot_be_combined_is_refused(parts, change, words):
    with pytest.raises(ErasureError) as caught:
        combine.combine(change(*parts))
    assert words in sentence(caught)


def test_conflicts_are_said(model, clip, parts):
    again = erase_instantly(model, clip, "circle", "star", SMALL)
    said = " ".join(combine.conflicts([*parts, again]))
    assert "'circle' is erased 2 times" in said and "'star' is erased, and the erasure of 'circle'" in said
    family, shapes, values = parts[1].metadata.fingerprint.split(":")
    other = f"{family}:{shapes}:{','.join(str(float(v) + 1) for v in values.split(','))}"
    moved = replace(parts[1], metadata=replace(parts[1].metadata, fingerprint=other))
    assert "different checkpoints" in " ".join(combine.conflicts([parts[0], moved]))
    assert combine.conflicts(parts) == []


def test_a_concept_in_two_spellings_is_one(model, clip, parts):
    again = erase_instantly(model, clip, "Circle", "star", SMALL)
    said = " ".join(combine.conflicts([*parts, again]))
    assert "'circle' is erased 2 times" in said and "'star' is erased" in said
    both = jointly.solve_jointly(model, clip, [parts[0], again])
    assert len(both.names) == len(parts[0].names)


@pytest.mark.parametrize(
    ("how", "given", "words"),
    [
        (HOW[1], {}, "needs the model and its CLIP"),
        (HOW[2], {"prompt": "a circle"}, "needs the prompt and a CLIP"),
    ],
)
def test_the_node_says_what_it_lacks(parts, how, given, words):
    with pytest.raises(ErasureError) as caught:
        ErasureCombine.execute(dict(enumerate(parts)), how, **given)
    assert words in sentence(caught)


def test_learned_erasures_act_on_their_own_names_and_less_on_what_is_preserved(model, clip, parts):
    """A change that erases "star", said to be learned, beside one that erases "circle" in closed form."""
    key = make_erasure(model, clip, "star", role="key").key
    metadata = replace(parts[1].metadata, method="kpop", settings="")
    learned = replace(parts[1], metadata=metadata, parts=(*parts[1].parts, *key))
    joint, summed = jointly.solve_jointly(model, clip, [parts[0], learned]), combine.combine([parts[0], learned])
    assert (joint.names, joint.key) == (["circle", "star"], key)
    assert not attach.missing(attach.erase(model, joint), learned), "its key is known on the whole"
    encode, name = Encoder(clip), next(iter(learned.delta))

    def moved(erasure, text: str) -> torch.Tensor:
        """What a weight gives more for the token of a name and those behind it."""
        return encode.rows([text])[0][2:] @ erasure.delta[name].dense().T

    for text, own in (("a circle", parts[0]), ("a star", learned)):
        assert (moved(joint, text) - moved(own, text)).norm() < 0.3 * moved(own, text).norm()
    for text in ("a square", "a red square", "a dotted square"):
        assert moved(joint, text).norm() < moved(summed, text).norm()


def test_what_changes_everything_is_kept_off_what_is_preserved(model, clip, parts):
    wild = make_erasure(model, clip, "ring", seed=4, prompt=False)
    wild = replace(wild, metadata=replace(wild.metadata, preserve=KEPT))
    joint, summed = jointly.solve_jointly(model, clip, [parts[0], wild]), combine.combine([parts[0], wild])
    rows, name = Encoder(clip).rows(["a square"])[0], next(iter(wild.delta))
    after, before = ((rows @ erasure.delta[name].dense().T).norm() for erasure in (joint, summed))
    assert after < 0.25 * before


def test_many_trained_ones_in_a_sum_or_in_a_row_are_told_of_the_joint_solve(model, clip):
    many = [
        make_erasure(model, clip, name, seed, prompt=False) for seed, name in enumerate(("ring", "moon", "star", "red"))
    ]
    for some, words in ((many[:3], False), (many, True)):
        out = ErasureCombine.execute(dict(enumerate(some)), HOW[0])
        assert ("'solve jointly' in Combine Erasures keeps more" in out.ui.value) == words
        erased = model
        for erasure in some:
            out = ErasureApply.execute(erased, erasure, 1.0, 0.0, 1.0)
            erased = out.args[0]
        assert ("'solve jointly' in Combine Erasures keeps more" in out.ui.value) == words
    summed, joint = combine.combine(many[:3]), jointly.solve_jointly(model, clip, many[:3])
    with_prompts = [replace(one, parts=(*one.parts, *make_erasure(model, clip, delta=False).parts)) for one in many]
    assert added_up([summed, many[3]]).startswith("4 trained erasures")
    assert added_up([joint, many[3]]) is added_up(with_prompts) is None


def test_a_key_apart_leaves_its_name_to_what_erases_it(model, clip, parts):
    learned = make_erasure(model, clip, "star", seed=4, role="key")
    together, apart = (
        jointly.solve_jointly(model, clip, [*some, parts[0]])
        for some in ([learned], [learned.key_only(), learned.without_key()])
    )
    for name, change in together.delta.items():
        torch.testing.assert_close(apart.delta[name].dense(), change.dense())


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["a prompt", "only beside", "behind a gate"])
def test_what_acts_elsewhere_than_in_the_weights_or_beside_some_texts_cannot_be_solved_jointly(
    model, clip, parts, kind, place
):
    other = {
        "a prompt": lambda: make_erasure(model, clip, "ring", delta=False),
        "only beside": lambda: erase_instantly(model, clip, "ring", KEPT, SMALL, only_in="red"),
        "behind a gate": lambda: erase_instantly(model, clip, "ring", KEPT, replace(SMALL, gated=True)),
    }[kind]()
    both = [parts[0], other][:: 1 - 2 * place]
    assert not combine.can_be_solved_again(both)
    with pytest.raises(ErasureError) as caught:
        jointly.solve_jointly(model, clip, both)
    assert "The erasure of 'ring' does not act on text in the weights alone" in sentence(caught)
    assert combine.combine(both).metadata.only_in == other.metadata.only_in


def test_what_does_not_fit_the_model_is_not_solved_jointly(model, clip, parts):
    elsewhere = [replace(one, metadata=replace(one.metadata, family="Other", context_dim="64")) for one in parts]
    nameless = [replace(one, metadata=replace(one.metadata, concept="")) for one in parts]
    for some, words in ((elsewhere, "was made for a Other model"), (nameless, "does not say which concept")):
        with pytest.raises(ErasureError) as caught:
            jointly.solve_jointly(model, clip, some)
        assert words in sentence(caught)


def test_of_several_for_one_name_a_joint_solve_takes_the_last_and_says_so(model, clip, parts):
    first, last = (make_erasure(model, clip, "ring", seed, role="key") for seed in (4, 5))
    out = ErasureCombine.execute(dict(enumerate([first, parts[0], last])), HOW[1], model, clip)
    assert "⚠ 'ring' is erased by 2 of them, and the last of these is taken." in out.ui.value
    wanted = jointly.solve_jointly(model, clip, [parts[0], last])
    assert out.args[0].identity() == wanted.identity() and len(out.args[0].key) == 1


def learned_from(erasure, *more):
    """A closed form, said to be learned, with more parts."""
    metadata = replace(erasure.metadata, method="kpop", settings="")
    return replace(erasure, metadata=metadata, parts=(*erasure.parts, *more))


def to(model, clip, name, target):
    how = Instant(target="anchor", anchor=target)
    return learned_from(erase_instantly(model, clip, name, "triangle\nred\ndotted", how))


def test_a_learned_name_whose_target_is_erased_moves_on_with_it(model, clip):
    """circle -> star, star -> square, square -> ring: all of them go where the ring is."""
    way = [to(model, clip, "circle", "star"), to(model, clip, "star", "square"), to(model, clip, "square", "ring")]
    joint = jointly.solve_jointly(model, clip, [way[1], way[0], way[2]])
    assert joint.metadata.target.splitlines() == ["ring"] * 3
    encode, name = Encoder(clip), next(iter(joint.delta))
    weight = attach.weights_now(model, [name])[name]
    changed = weight + joint.delta[name].dense()
    ring = encode.rows(["a red ring"])[0][3:] @ weight.T
    for text in ("a red circle", "a red star", "a red square"):
        rows = encode.rows([text])[0][3:]
        before, after = ((rows @ one.T - ring).norm() for one in (weight, changed))
        assert after < 0.3 * before, text
    out = ErasureCombine.execute(dict(enumerate(way)), HOW[0], model, clip)
    assert "Solved jointly, because 'circle' becomes 'star'" in out.ui.value and "✓ " in out.ui.value


def test_what_its_key_turns_back_is_all_that_a_name_was_moved_by(model, clip):
    star = to(model, clip, "star", "square")
    key = make_erasure(model, clip, "circle", role="key").key[0]
    width = subject(model).width
    key = replace(key, turn=LowRank(torch.zeros(width, 1), torch.zeros(1, width)))
    circle = to(model, clip, "circle", "star")
    circle = replace(circle, parts=(*circle.parts, key))
    joint = jointly.solve_jointly(model, clip, [circle, star])
    encode, (own,) = Encoder(clip), joint.key
    for text, is_own in (("a red circle", True), ("a red star", False)):
        rows = encode.rows([text])[0][3:]
        for name, change in own.undoes.items():
            whole, undone = (rows @ one.dense().T for one in (joint.delta[name], change))
            assert ((whole - undone).norm() < 0.3 * whole.norm()) == is_own, text
    recovered = (attach.recover(attach.erase(model, joint), one) for one in (joint, circle, circle.key_only()))
    turns = [attach.attachments(one)[-1].part.turn.dense() for one in recovered]
    torch.testing.assert_close(turns[1], turns[0])  # as the erasure on the model says it, from whatever file
    torch.testing.assert_close(turns[2], turns[0])


def test_learned_names_that_become_each_other_are_refused(model, clip):
    both = [to(model, clip, "circle", "star"), to(model, clip, "star", "circle")]
    with pytest.raises(ErasureError) as caught:
        jointly.solve_jointly(model, clip, both)
    assert "make one of them with another target" in sentence(caught)


def test_what_a_key_alone_would_erase_is_not_judged(model, clip, parts):
    key = replace(make_erasure(model, clip, "star", role="key").key_only(), probes=parts[1].probes)
    other = make_erasure(model, clip, "ring", seed=4, prompt=False)
    goals = {probe.text for probe in combine.combine([key, parts[0], other]).probes if probe.goal is not None}
    assert goals == {"circle"}


@pytest.mark.parametrize("how", HOW)
def test_the_node_combines(model, clip, parts, how):
    given = {"erasure0": parts[0], "erasure1": parts[1], "erasure2": None}
    out = ErasureCombine.execute(given, how, model, clip, "a star")
    assert out.args[0].names == ["circle", "star"]


TRAINED = [name for name in ("sdxl", "flux", "anima") if WORLDS[name].checkpoint.exists()]
"""With a pooled text, at one entry, behind an adapter."""


@pytest.mark.parametrize("world", TRAINED)
def test_in_other_families_each_still_acts_as_it_did_alone(world):
    model, clip, _ = loading.load(WORLDS[world].checkpoint)
    with torch.inference_mode():
        alone = [erase_instantly(model, clip, name, "square\nblue", Instant()) for name in ("circle", "red")]
    learned = [replace(one, metadata=replace(one.metadata, method="kpop", settings="")) for one in alone]
    joint = jointly.solve_jointly(model, clip, learned)
    assert joint.delta.keys() == alone[0].delta.keys()
    empty = encoded(clip, "")
    noise = torch.randn(1, *latent_shape(model, 64, 64), generator=torch.Generator().manual_seed(0))
    for text, own in (("a blue circle", alone[0]), ("a red square", alone[1])):
        before, wanted, after = (
            sample(one, encoded(clip, text), empty, noise=noise, cfg=3.0)
            for one in (model, attach.erase(model, own), attach.erase(model, joint))
        )
        assert difference(after, wanted) < 0.35 * difference(wanted, before), text


def test_none_is_left_behind_by_a_joint_solve(toys):
    """Of changes on one name each, as much arrives of the one whose encodings are most like what is preserved."""
    model, clip = toys.model, toys.clip
    names, kept = (
        ("circle", "star", "red"),
        "square\nblue\ngreen\nyellow\npurple\norange\nring\nheart\ndotted",
    )
    with torch.inference_mode():
        learned = [learned_from(erase_instantly(model, clip, name, kept, Instant())) for name in names]
    joint, encode = jointly.solve_jointly(model, clip, learned), Encoder(clip)
    left = []
    for own, name in zip(learned, names, strict=True):
        rows = torch.cat([row[2:] for row in encode.rows([f"a {name}", f"a drawing of a {name}"])])
        pairs = [[rows @ one.delta[weight].dense().T for one in (joint, own)] for weight in own.delta]
        missed, whole = (
            sum(float(x.square().sum()) for x in some) for some in ([a - b for a, b in pairs], [b for _, b in pairs])
        )
        left.append((missed / whole) ** 0.5)
    assert max(left) < 1.3 * min(left)
