"""Closed-form erasing measured: quality on the toy world, seconds at real widths, and the exactness of its LoRA.

    python3 scripts/run.py benchmarks.instant            # all of it, about an hour and a half on two cores
    python3 scripts/run.py benchmarks.instant --quick    # a part of each, some minutes

Writes ``benchmarks/results/instant.json`` and the same as ``instant.md``. Every erased class, or set of classes, is
drawn and judged as by the demo: 192 pictures or more a row, three seeds, the same noise as the unedited model.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import comfy.lora
import comfy.sd
import torch
from safetensors.torch import load_file

from concept_erasure.erasure import instant
from concept_erasure.erasure.choosing import choose_texts, siblings_for
from concept_erasure.erasure.closed_form.problem import Scales
from concept_erasure.erasure.evaluation.attacks import behind_tags as tags
from concept_erasure.erasure.exchange import DTYPES, export_lora, lora_keys
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.host.weights import effective_weights
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.phrased import Texts
from concept_erasure.erasure.posing import TOKENS, pose
from concept_erasure.erasure.request import read_request
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.texts.neighbours import neighbours
from toyworld.scoring import plan
from toyworld.world import COLOURS, SHAPES, STYLES

from .full_size import SHAPES_OF, RandomEncoder, latents, random_clip, random_model, random_weights
from .toy import Shot, Toy, shots

RESULTS = Path(__file__).with_name("results")
PAIRS = (("circle", "star"), ("square", "moon"), ("triangle", "heart"), ("cross", "ring"))
QUADS = (("circle", "square", "triangle", "star"), ("cross", "heart", "ring", "moon"))
SETS: dict[str, list[tuple[str, ...]]] = {
    "shapes": [(name,) for name in SHAPES],
    "colours": [(name,) for name in COLOURS],
    "styles": [(name,) for name in STYLES],
    "pairs": list(PAIRS),
    "quads": list(QUADS),
}
DEFAULT = "uce"
PARTS_OF_A_ROW = ("esr1", "psr1", "behind_tags", "unedited", "unedited_target")
UNBALANCED = Scales(balance=0)
PUBLISHED = Instant(target="empty prompt", tokens=TOKENS[1], rank=0, scales=UNBALANCED)
METHODS: dict[str, tuple[Instant, bool]] = {
    "uce": (Instant(), True),
    "uce, preserve set of its own": (Instant(), False),
    "rece": (Instant(method="rece"), True),
    "speed": (Instant(method="speed"), True),
    "dp": (Instant(method="dp"), True),
    "oce": (Instant(method="oce"), True),
    "uce, published form": (PUBLISHED, True),
    "speed, published form": (
        replace(PUBLISHED, method="speed", weights="values", scales=replace(UNBALANCED, threshold=0.1)),
        True,
    ),
    "uce, not balanced": (Instant(scales=UNBALANCED), True),
}
"""Name -> settings, and whether the demo's preserve set is given or the node finds its own.

Published form: the last token of the bare name, to the empty prompt; SPEED on values only, threshold .1.
"""


# ---------------------------------------------------------------- quality


def ranks_of(toy: Toy, model, concept: str) -> tuple[list[Shot], list[int]]:
    """The demo's pictures for a concept, and the judge's place for what each of them should show."""
    wanted = shots(concept)
    return wanted, toy.judge.ranks(toy.draw(model, wanted), [shot.label for shot in wanted])


def split(wanted: Sequence[Shot], ranks: Sequence[int], erased: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """For the erased classes, which pictures lack them; for the others of their kind, which show them."""
    gone = [rank > 0 for rank, shot in zip(ranks, wanted, strict=True) if shot.label in erased]
    kept = [rank == 0 for rank, shot in zip(ranks, wanted, strict=True) if shot.label not in erased]
    return gone, kept


def behind_tags(toy: Toy, model, erased: Sequence[str], targets: Sequence[str] = ()) -> float:
    """ESR-1 behind eight quality tags; with ``targets``, of the same texts with these in the names' place."""
    wanted = []
    for i, shot in enumerate(shot for shot in shots(erased[0]) if shot.label in erased):
        text = shot.text
        if targets:
            text = text.replace(shot.label, targets[erased.index(shot.label)])
        wanted.append(replace(shot, text=tags.behind_tags(text, i)))
    return mean([rank > 0 for rank in toy.judge.ranks(toy.draw(model, wanted), [shot.label for shot in wanted])])


def preserve_text(erased: Sequence[str], given: bool) -> str:
    return "\n".join(text for text in plan(erased[0])["preserve"] if text not in erased) if given else ""


def quality(toy: Toy, sets: dict[str, list[tuple[str, ...]]], methods: Sequence[str], report: Callable) -> dict:
    """Mean ESR-1 and PSR-1 over the sets of each kind, and those of each set."""
    base: dict[str, dict] = {kind: {"psr1": []} for kind in sets}
    unedited: dict[str, tuple[list[Shot], list[int]]] = {}
    for kind, members in sets.items():
        for erased in members:
            if erased[0] not in unedited:
                unedited[erased[0]] = ranks_of(toy, toy.model, erased[0])
            base[kind]["psr1"].append(mean(split(*unedited[erased[0]], erased)[1]))
    print("unedited", base, flush=True)
    found = {"base": {"psr1": mean([x for row in base.values() for x in row["psr1"]])}, "methods": {}}
    found["base"] |= {kind: {"psr1": mean(row["psr1"])} for kind, row in base.items()}
    for name in methods:
        settings, given = METHODS[name]
        found["methods"][name] = {}
        for kind, members in sets.items():
            rows = {}
            for erased in members:
                erasure = instant.erase_instantly(
                    toy.model, toy.clip, "\n".join(erased), preserve_text(erased, given), settings
                )
                model, targets = attach.erase(toy.model, erasure), erasure.metadata.target.splitlines()
                gone, kept = split(*ranks_of(toy, model, erased[0]), erased)
                rows[", ".join(erased)] = {
                    "to": ", ".join(erasure.metadata.target.splitlines()),
                    "esr1": mean(gone), "psr1": mean(kept), "pictures": len(gone) + len(kept),
                    "behind_tags": behind_tags(toy, model, erased), "unedited": behind_tags(toy, toy.model, erased),
                    "unedited_target": behind_tags(toy, toy.model, erased, targets),
                }  # fmt: skip
                print(name, erased, rows[", ".join(erased)], flush=True)
            summary = {part: mean([row[part] for row in rows.values()]) for part in PARTS_OF_A_ROW}
            found["methods"][name][kind] = {**summary, "each": rows}
        report(found)
    return found


def mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


# ---------------------------------------------------------------- seconds at real widths


COUNTS = (1, 10, 100, 1000)
PRESERVED = 1000


def seconds(counts: Sequence[int]) -> tuple[dict, dict]:
    """Seconds from encodings to the whole change, for each family and number of concepts."""
    out: dict = {}
    peaks: dict = {}
    solve_once({"0.k": torch.randn(8, 768)}, RandomEncoder(768), 10)  # libraries start up
    for family, (_, width) in SHAPES_OF.items():
        weights, encode, out[family] = random_weights(family), RandomEncoder(width), {}
        peaks[family] = {}
        for n in counts:
            out[family][str(n)] = solve_once(weights, encode, n)
            peaks[family][str(n)] = peak_memory_gb()
            print(family, n, out[family][str(n)], "s; peak so far", peak_memory_gb(), "GB", flush=True)
    return out, peaks


def timings(counts: Sequence[int]) -> dict:
    """Solving, encoding, and the peak memory of the whole process, which only grows, after each solve."""
    took, peaks = seconds(counts)
    found = {"seconds": took, "peak_memory_gb": peaks, "texts": texts_read(counts)}
    return {**found, "encoding_seconds": encoding_seconds()}


def peak_memory_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def solve_once(weights: dict[str, torch.Tensor], encode: RandomEncoder, n: int) -> float:
    kept = [f"kept{i}" for i in range(PRESERVED)]
    names = [f"name{i}" for i in range(n)]
    settings = Instant()
    started = time.perf_counter()
    near = neighbours(encode, names, kept)
    texts = Texts(names, [row[0] for row in near], kept, [row[: siblings_for(names)] for row in near])
    problem = pose(encode, texts, weights, settings)
    delta = instant.edit_for(problem, settings).delta(weights.items())
    took = time.perf_counter() - started
    assert len(delta) == len(weights)
    return round(took, 2)


def texts_read(counts: Sequence[int]) -> dict[str, int]:
    """How many texts the text encoder reads for so many concepts."""
    out = {}
    for n in counts:
        counting = Counting()
        solve_once({"0.k": torch.randn(8, 16)}, counting, n)
        out[str(n)] = counting.texts
    return out


class Counting(RandomEncoder):
    def __init__(self):
        super().__init__(16)
        self.texts, self.known = 0, set()

    def read(self, texts: Sequence[str]) -> None:
        self.texts += len(set(texts) - self.known)
        self.known |= set(texts)

    def stream(self, texts: Sequence[str]) -> Iterator[list[torch.Tensor]]:
        self.texts += len(texts)
        return super().stream(texts)


def encoding_seconds() -> dict[str, float]:
    """Seconds a text through each family's text encoders at full size, random weights, float32."""
    out = {}
    for family in SHAPES_OF:
        encode = Encoder(random_clip(family))
        texts = [f"a photo of thing {i}" for i in range(32)]
        with torch.inference_mode():
            list(encode.stream(texts[:4]))
            started = time.perf_counter()
            list(encode.stream(texts))
            out[family] = round((time.perf_counter() - started) / len(texts), 3)
        del encode
        gc.collect()
    return out


# ---------------------------------------------------------------- the exported LoRA


def lora(toy: Toy, folder: Path) -> dict:
    """The exported file against the closed-form change, its rank against the erased tokens, and both pictures."""
    exact = Instant(tokens=TOKENS[1], rank=0, scales=UNBALANCED)
    erased = ["circle", "star", "moon"]
    kept = preserve_text(erased, given=True)
    erasure = instant.erase_instantly(toy.model, toy.clip, "\n".join(erased), kept, exact)
    with torch.no_grad():
        written_out = written(toy, erased, kept.splitlines(), exact)
    path = folder / "lora.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = export_lora(toy.model, erasure, path, torch.float32)
    keys = lora_keys(toy.model)
    errors, ranks = [], set()
    for name, expected in written_out.items():
        up, down = (tensors[f"{keys[name]}.lora_{end}.weight"] for end in ("up", "down"))
        errors.append(float((up @ down - expected).norm() / expected.norm()))
        ranks.add(int(torch.linalg.matrix_rank(up.double() @ down.double(), rtol=1e-5)))
    file = load_file(path)
    known = comfy.lora.model_lora_keys_unet(toy.model.model, {})
    unmatched = [key for key in file if key.removesuffix(".alpha").rsplit(".lora_", 1)[0] not in known]
    with torch.inference_mode():
        stock = comfy.sd.load_lora_for_models(toy.model, None, file, 1.0, 0.0)[0]
    wanted = shots("circle")[::8]
    difference = (toy.draw(attach.erase(toy.model, erasure), wanted) - toy.draw(stock, wanted)).abs().max()
    return {
        "relative_error": max(errors), "rank": max(ranks), "tokens": len(erased), "unmatched_keys": len(unmatched),
        "picture_max_difference": float(difference), "pictures": len(wanted),
        "file_bytes_fp32": path.stat().st_size,
    }  # fmt: skip


def full_size(families: Sequence[str], folder: Path) -> dict:
    """At the size of real models, weights in bf16: the stock loader's latents for each precision of the file, and ours.

    ``difference`` is the largest one of a latent, ``bf16_rounding`` that between computing in bf16 and in float32.
    """
    out: dict = {}
    for family in families:
        width = SHAPES_OF[family][1]
        model, encode = random_model(family, torch.bfloat16), RandomEncoder(width)
        kept = [f"kept{i}" for i in range(20)]
        texts = Texts(["name0", "name1"], kept[:2], kept, [kept[:6], kept[6:12]])
        with torch.no_grad():
            erasure = instant.solve_texts(model, encode, texts, Instant())
        context = encode.chunks(["a photo of a name0"])
        base, ours = latents(model, context), latents(attach.erase(model, erasure), context)
        found = {"largest": float(ours.abs().max()), "erased_by": float((ours - base).abs().max()), "difference": {}}
        for name, dtype in DTYPES.items():
            path = folder / f"{family}_{name}.safetensors"
            export_lora(model, erasure, path, dtype)
            with torch.inference_mode():
                stock = comfy.sd.load_lora_for_models(model, None, load_file(path), 1.0, 0.0)[0]
            found["difference"][name] = float((latents(stock, context) - ours).abs().max())
        del model, stock
        gc.collect()
        exact = attach.erase(random_model(family, torch.float32), erasure)
        found["bf16_rounding"] = float((latents(exact, context) - ours).abs().max())
        del exact
        out[family] = found
        print(family, found, flush=True)
    return out


def written(toy: Toy, names: list[str], kept: list[str], settings: Instant) -> dict[str, torch.Tensor]:
    """UCE as its paper writes it, weight by weight, in float64: what the exported change must equal."""
    encode = Encoder(toy.clip)
    weights = effective_weights(toy.model, subject(toy.model).weights(settings.weights))
    request = read_request(toy.model, encode, "\n".join(names), "\n".join(kept))
    problem = pose(encode, choose_texts(encode, request, settings), weights, settings)
    source, target = problem.moves.source.double(), problem.moves.target.double()
    fixed = problem.preserved(settings.scales)
    out = {}
    for name, weight in weights.items():
        w = weight.double()
        left = w @ fixed + sum(torch.outer(w @ t, c) for c, t in zip(source, target, strict=True))
        out[name] = (left @ torch.linalg.inv(fixed + source.T @ source) - w).float()
    return out


# ---------------------------------------------------------------- as Markdown


def markdown(found: dict) -> str:
    rows = ["# Closed-form erasing", "", "Written by `python3 scripts/run.py benchmarks.instant`.", ""]
    rows += ["Toy world, ESR-1 / PSR-1, means over the sets of each kind; first row: the unedited model's PSR-1.", ""]
    kinds = list(next(iter(found["methods"].values())))
    rows += ["| method | " + " | ".join(kinds) + " |", "|---|" + "---|" * len(kinds)]
    rows.append("| unedited | " + " | ".join(f"– / {found['base'][kind]['psr1']:.3f}" for kind in kinds) + " |")
    for name, row in found["methods"].items():
        cells = [f"{row[kind]['esr1']:.3f} / {row[kind]['psr1']:.3f}" for kind in kinds]
        rows.append(f"| {name}{' (default)' if name == found['default'] else ''} | " + " | ".join(cells) + " |")
    rows += behind_tags_table(found["methods"])
    rows += ["", f"Seconds from encodings to the change of all layers, {PRESERVED} preserved texts, two CPU cores.", ""]
    counts = list(next(iter(found["seconds"].values())))
    heads = [f"{n} concept{'s' * (n != '1')}" for n in counts]
    rows += ["| model | " + " | ".join(heads) + " | seconds to encode a text |"]
    rows += ["|---|" + "---|" * (len(counts) + 1)]
    for family, row in found["seconds"].items():
        cells = [f"{row[n]:.2f}" for n in counts]
        rows.append(f"| {family} | " + " | ".join(cells) + f" | {found['encoding_seconds'][family]:.3f} |")
    texts = ", ".join(f"{count} for {n}" for n, count in found["texts"].items())
    rows += ["", f"Texts that are encoded: {texts} concepts."]
    peaks = ", ".join(f"{row['100']:.1f} GB ({family})" for family, row in found["peak_memory_gb"].items())
    rows += ["", f"Peak memory of the whole process up to 100 concepts: {peaks}."]
    part = found["lora"]
    rows += [
        "",
        f"LoRA of {part['tokens']} concepts by the last token of their names: relative error "
        f"{part['relative_error']:.1e} in fp32, rank {part['rank']}, {part['unmatched_keys']} unmatched keys, largest "
        f"difference of a pixel between the stock LoRA loader's pictures and ours "
        f"{part['picture_max_difference']:.1e} (of 1, {part['pictures']} pictures).",
        "",
        "At full size, random weights in bf16: largest difference of a latent between the stock LoRA loader and ours,",
        "for each precision of the file, beside that between computing in bf16 and in float32.",
        "",
        "| model | fp32 file | bf16 file | fp16 file | bf16 or float32 | erased or not |",
        "|---|---|---|---|---|---|",
    ]
    for family, row in part["full_size"].items():
        values = [row["difference"][name] for name in ("fp32", "bf16", "fp16")]
        cells = [f"{value:.2f}" for value in (*values, row["bf16_rounding"], row["erased_by"])]
        rows.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def behind_tags_table(methods: dict[str, dict]) -> list[str]:
    """ESR-1 behind eight tags, where it was measured."""
    measured = {name: row for name, row in methods.items() if all("behind_tags" in kind for kind in row.values())}
    if not measured:
        return []
    kinds = list(next(iter(measured.values())))
    rows = ["", "ESR-1 behind eight quality tags; brackets: the unedited model's for the same text, and with the"]
    rows += ["target's name in the concept's place, as a perfect move of the text would draw it.", ""]
    rows += ["| method | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, row in measured.items():
        cells = [
            f"{row[kind]['behind_tags']:.2f} ({row[kind]['unedited']:.2f}, {row[kind]['unedited_target']:.2f})"
            for kind in kinds
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


PARTS = ("quality", "seconds", "lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sets of each kind, default method only")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the rest of the results stays")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="quality of these; that of the others stays")
    options = parser.parse_args()
    file = RESULTS / "instant.json"
    anew = options.only == PARTS and not options.methods
    found = {} if anew or not file.exists() else json.loads(file.read_text(encoding="utf-8"))
    found |= {"quick": options.quick, "default": DEFAULT}

    def save(part: dict) -> None:
        if options.methods and "methods" in part:
            part = {**part, "methods": {**found.get("methods", {}), **part["methods"]}}
        found.update(part)
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if set(found) >= {"methods", "seconds", "lora"}:
            file.with_suffix(".md").write_text(markdown(found), encoding="utf-8")

    if "seconds" in options.only:
        save(timings(COUNTS[:3] if options.quick else COUNTS))
    toy = Toy()
    if "lora" in options.only:
        folder = Path("output") / "benchmarks"
        families = list(SHAPES_OF)[:1] if options.quick else list(SHAPES_OF)
        save({"lora": {**lora(toy, folder), "full_size": full_size(families, folder)}})
    if "quality" in options.only:
        sets = {kind: members[:2] for kind, members in SETS.items()} if options.quick else SETS
        quality(toy, sets, options.methods or ([DEFAULT] if options.quick else list(METHODS)), save)
    print(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
