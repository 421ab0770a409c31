"""The host in this process, on random tiny models that live as long as the session."""

import importlib
import os

import pytest

from scripts import bootstrap

if "CONCEPT_ERASURE_HOST_ROOT" not in os.environ:
    raise pytest.UsageError("These tests need the host: start them with python3 scripts/test.py")
bootstrap.host_on_cpu()  # before anything else of the host is imported
importlib.import_module("utils.extra_config")  # as main.py does: in older hosts nodes.py puts comfy/utils.py before it

import comfy.model_management  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

from concept_erasure.erasure import learning  # noqa: E402
from concept_erasure.erasure.host import subject  # noqa: E402
from concept_erasure.erasure.texts import encoder  # noqa: E402
from tests import worlds  # noqa: E402
from tests.host import tools  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def checkpoint(folder):
    return worlds.random_checkpoint(folder / "random.safetensors")


@pytest.fixture(scope="session")
def world(checkpoint):
    """(MODEL, CLIP, VAE)."""
    return worlds.load(checkpoint)


@pytest.fixture(scope="session")
def model(world):
    return world[0]


@pytest.fixture(scope="session")
def clip(world):
    return world[1]


@pytest.fixture(scope="session")
def other_checkpoint_model(folder):
    """The same family with other weights."""
    return worlds.load(worlds.random_checkpoint(folder / "other.safetensors", seed=1))[0]


@pytest.fixture(scope="session")
def narrow_model(folder):
    """Another family, whose context is narrower."""
    return worlds.load(worlds.random_checkpoint(folder / "narrow.safetensors", context_dim=64))[0]


@pytest.fixture(scope="session")
def bf16_model(checkpoint):
    return worlds.load(checkpoint, torch.bfloat16)[0]


@pytest.fixture(scope="session")
def half_model(checkpoint):
    """Computes in half precision, as on a GPU; on a CPU the host would have it compute in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.model_management, "unet_manual_cast", lambda *_, **__: None)
        return worlds.load(checkpoint, torch.float16)[0]


@pytest.fixture(scope="session")
def cond(clip):
    """Text -> the host's conditioning, each text encoded once."""
    known = {}

    @torch.inference_mode()
    def encode(text: str) -> list:
        if text not in known:
            known[text] = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return known[text]

    return encode


@pytest.fixture(scope="session")
def gated(model, clip):
    """An erasure of 'circle': delta and a gated eraser prompt, both random and strong."""
    return tools.make_erasure(model, clip, seed=1)


@pytest.fixture
def output(tmp_path, monkeypatch):
    """An empty output folder of the host, and empty model folders."""
    from concept_erasure.nodes import dictionaries, files, lists

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    files.register_folders()
    lists.register_folders()
    dictionaries.register_folders()
    return tmp_path / "output"


@pytest.fixture(scope="session")
def encode(clip):
    """Encodes each text once: every test of training needs the same few hundred."""
    return encoder.Encoder(clip)


@pytest.fixture
def encoded_once(encode, clip, monkeypatch):
    """Training reads its texts with ``encode``."""
    real = encoder.Encoder
    monkeypatch.setattr(subject, "Encoder", lambda c, *more: encode if c is clip else real(c, *more))


@pytest.fixture
def prepare(model, clip):
    """Sets a run up; its settings are given by name."""

    def prepared(on=None, concept="circle", preserve=tools.KEPT, resume=None, **changes):
        with torch.inference_mode(), learning.gradients():
            return learning.prepare(on or model, clip, concept, preserve, tools.short(**changes), resume)

    return prepared


@pytest.fixture
def train(prepare):
    """Trains to the end; the learning is its second result."""

    def trained(*arguments, **changes):
        run = prepare(*arguments, **changes)
        with torch.inference_mode(), learning.gradients():
            return learning.learn(run), run

    return trained


@pytest.fixture(scope="session")
def toys():
    """The toy checkpoint with its judge, which draws and counts."""
    from benchmarks.toy import Toy

    return Toy()


@pytest.fixture(scope="session")
def toy_reader(toys):
    from benchmarks.toy import Reader

    return Reader(toys.clip)


@pytest.fixture
def read_once(toys, toy_reader, monkeypatch):
    """Closed-form erasures of the toy checkpoint read each text once in all tests: they need the same few thousand."""
    from concept_erasure.erasure import combine, instant

    def reader(clip, *more, **by_name):
        return toy_reader if clip is toys.clip else encoder.Encoder(clip, *more, **by_name)

    for module in (instant, combine):
        monkeypatch.setattr(module, "Encoder", reader)
    return toys
