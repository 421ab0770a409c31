"""A real server with the toy world, and a real browser, one of each a process; a fresh page for every test."""

import contextlib
import json

import pytest
from playwright.sync_api import Error, sync_playwright

from scripts import chromium, shared
from scripts import server as servers
from tests.browser.copies import PICTURES
from tests.browser.editor import Editor

SIZE, LAPTOP = {"width": 1920, "height": 1200}, {"width": 1366, "height": 768}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What is to be seen when a test fails is a picture, too."""
    report = yield
    editor = getattr(item, "funcargs", {}).get("editor")
    if report.when == "call" and report.failed and editor is not None:
        with contextlib.suppress(Error):  # the page itself may be gone
            editor.page.screenshot(path=PICTURES / f"FAILED-{item.name}.png")
    return report


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    base = servers.toy_base(tmp_path_factory.mktemp("base"))
    with servers.Server(host, base) as running:
        yield running


@pytest.fixture(scope="session")
def browser():
    try:
        program = chromium.obtain()
    except shared.HostError as error:
        pytest.exit(str(error), 1)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for old in PICTURES.glob("FAILED-*.png"):
        old.unlink(missing_ok=True)  # another process may have done it
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(chromium.ARGUMENTS))
        yield running
        running.close()


@pytest.fixture
def settings(server):
    """What the editor keeps on the server. Its first start, with the dialog of templates, is over."""
    file = server.base / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"Comfy.TutorialCompleted": True}))
    return file


@pytest.fixture
def language():
    """What the user's browser speaks; tests in other languages bring their own."""
    return "en"


@pytest.fixture
def size():
    """The user's screen; tests on another bring their own."""
    return SIZE


@pytest.fixture
def editor(browser, server, client, settings, language, size):
    """The editor as a user sees it who was never here before."""
    with browser.new_context(viewport=size, locale=language) as context:
        # The server keeps results; a test is to see what it ran itself.
        context.request.post(f"{server.address}/free", data={"free_memory": True})
        editor = Editor(context.new_page(), server.address, PICTURES)
        editor.open()
        yield editor
    client.interrupt()  # what a test that failed left running
