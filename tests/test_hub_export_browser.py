"""The hub's site in Chromium: searching, reading, trying, by keyboard, phone and without script."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("playwright")

from hub_modules import CLASSIFIER, FEATURES, built_hub, serving
from playwright.sync_api import sync_playwright

from bit_keras.sources import ASSETS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
FLAG = ASSETS / "openclipart-mini/test/flags/capeverde.png"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(built_hub(tmp_path_factory)) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser):
    """Opens pages; at the end none of them may have reported an error."""
    errors, contexts = [], []

    def new_page(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        return page

    yield new_page
    for context in contexts:
        context.close()
    # Chromium reports the status 422 of a refused image as an error of its own.
    assert [error for error in errors if "422" not in error] == []


def seen(screenshot):
    """How many colours a screenshot has, and the brightness of its corner."""
    pixels = np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0)), int(pixels[2, 2].mean())


def test_search_narrows_the_gallery_while_typing(url, new_page):
    page = new_page()
    page.goto(url)
    assert page.locator(".module:visible").count() == 2
    page.fill("#q", "clipart_class")
    assert page.locator(".module:visible").all_inner_texts()[0].startswith(CLASSIFIER)
    assert page.locator(".module:visible").count() == 1
    assert page.inner_text("#count") == "1 of 2 modules"
    page.fill("#q", "nothing such")
    assert page.locator(".module:visible").count() == 0
    page.fill("#q", "")
    page.click(f"text={FEATURES}")
    assert page.url == f"{url}/{FEATURES}"


def test_module_page_offers_snippets_to_copy(url, new_page, tmp_path):
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{url}/{CLASSIFIER}")
    assert page.inner_text("h1") == CLASSIFIER
    buttons = page.locator(".snippet button")
    assert buttons.count() == 3
    buttons.nth(1).click()
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f'bit_keras.load_module("{url}/{CLASSIFIER}")' in copied
    page.screenshot(path=tmp_path / "hub_card.png", full_page=True)


def test_a_good_image_gets_five_bars(url, new_page, tmp_path):
    page = new_page()
    page.goto(f"{url}/{CLASSIFIER}")
    page.set_input_files("#image", FLAG)
    page.wait_for_selector(".bars", timeout=60_000)
    assert page.locator(".bars li").count() == 5
    assert page.locator(".bars .label").first.inner_text().startswith("emoji/flags")
    assert page.is_visible("#preview")
    page.screenshot(path=tmp_path / "hub_try.png")
    colours, _ = seen((tmp_path / "hub_try.png").read_bytes())
    assert colours > 50


def test_a_corrupt_image_gets_a_message_and_the_next_one_bars(url, new_page, tmp_path):
    (tmp_path / "broken.png").write_bytes(FLAG.read_bytes()[:100])
    page = new_page()
    page.goto(f"{url}/{CLASSIFIER}")
    page.set_input_files("#image", tmp_path / "broken.png")
    page.wait_for_selector(".error", timeout=60_000)
    assert page.inner_text("#answer") == "This image cannot be used: truncated."
    page.set_input_files("#image", FLAG)
    page.wait_for_selector(".bars", timeout=60_000)
    assert page.locator(".error").count() == 0


def test_a_file_above_the_limit_is_not_even_sent(url, new_page, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(8_000_001))
    page, sent = new_page(), []
    page.goto(f"{url}/{CLASSIFIER}")
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files("#image", tmp_path / "large.png")
    page.wait_for_selector(".error")
    assert page.inner_text("#answer") == "This file has 8.0 MB; the limit is 8 MB."
    assert not [address for address in sent if address.endswith(":predict")]


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_images_can_be_dropped_and_pasted(url, new_page, event):
    page = new_page()
    page.goto(f"{url}/{CLASSIFIER}")
    page.evaluate(
        """([bytes, event]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "flag.png", {type: "image/png"}));
          const target = event === "drop" ? document.getElementById("try") : document;
          target.dispatchEvent(event === "drop"
            ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data}));
        }""",
        [list(FLAG.read_bytes()), event],
    )
    page.wait_for_selector(".bars", timeout=60_000)


def test_the_keyboard_is_enough(url, new_page):
    page = new_page()
    page.goto(url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("clipart_class")
    page.keyboard.press("Tab")  # the button
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/{CLASSIFIER}")
    for _ in range(5):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_without_script_everything_can_be_read_searched_and_tried(url, new_page):
    page = new_page(java_script_enabled=False)
    page.goto(url)
    page.fill("#q", "classification")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{url}/?q=classification")
    assert page.locator(".module:visible").count() == 1
    page.click(f"text={CLASSIFIER}")
    assert page.is_visible("text=3,632,168")
    page.set_input_files("#image", FLAG)
    page.click("#try-form button")
    page.wait_for_selector(".bars", timeout=60_000)
    assert page.locator(".bars li").count() == 5


@pytest.mark.parametrize("path", ["", FEATURES, CLASSIFIER])
def test_pages_fit_a_phone(url, new_page, path):
    page = new_page(viewport=PHONE)
    page.goto(f"{url}/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_dark_and_light_follow_the_system(url, new_page, tmp_path):
    brightness = {}
    for scheme in ("light", "dark"):
        page = new_page(color_scheme=scheme, viewport=PHONE)
        page.goto(f"{url}/{CLASSIFIER}")
        page.set_input_files("#image", FLAG)
        page.wait_for_selector(".bars", timeout=60_000)
        picture = page.screenshot(path=tmp_path / f"hub_phone_{scheme}.png")
        brightness[scheme] = seen(picture)[1]
    assert brightness["dark"] < 60 < 200 < brightness["light"]
