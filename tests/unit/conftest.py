"""No unit test sees the real cache folder or the machine's settings."""

import pytest
from hypothesis import settings

settings.register_profile("the same examples every time", derandomize=True)
settings.load_profile("the same examples every time")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep every test away from the real cache folder and the machine's settings."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "HOST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CONCEPT_ERASURE_CACHE", str(tmp_path / "cache"))
