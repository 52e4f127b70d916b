"""Screenshots of a report at three widths, light and dark: python -m tests.page.screenshots REPORT.html DIR.

Needs Chromium (Debian: apt-get install chromium) and the dev dependency playwright.
"""

import io
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import sync_playwright

from crossover.store import write_atomically

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SHOTS: tuple[tuple[int, Literal["light", "dark"]], ...] = ((390, "light"), (820, "dark"), (1280, "light"))
"""Width in pixels and colour scheme."""
HEIGHT = 1100


def main(arguments: list[str]) -> int:
    if len(arguments) not in (2, 3):
        print("usage: python -m tests.page.screenshots REPORT.html DIR [full]", file=sys.stderr)
        return 2
    page_file, folder, whole = Path(arguments[0]).resolve(), Path(arguments[1]), len(arguments) == 3
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for width, scheme in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            path = folder / f"report-{width}-{scheme}.png"
            taken = Image.open(io.BytesIO(page.screenshot(full_page=whole)))
            write_atomically(path, lambda file, image=taken: image.quantize(96).save(file, "PNG", optimize=True))  # type: ignore[misc]
            print(path)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
