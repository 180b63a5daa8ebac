"""What the browser tests share: waiting for the map and the page, and going from page to page."""

from collections.abc import Callable

from app_testing import WAIT_MS, Watched
from playwright.sync_api import TimeoutError as PlaywrightTimeout

Open = Callable[..., Watched]
NARROW_PX = 768  # below it Streamlit moves the links of the top bar into the sidebar


def tiles_shown(watched: Watched, at_least: int = 1) -> None:
    watched.page.locator(".leaflet-tile-loaded").nth(at_least - 1).wait_for(state="attached")


def still(watched: Watched) -> None:
    """Wait until the page's script has run to its end."""
    watched.page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    )


def go(watched: Watched, name: str) -> None:
    """Open a page by its link, which a phone keeps behind a button, and wait until it is drawn.

    While a page takes the place of another, Streamlit shows what both have in common twice.
    """
    page = watched.page
    # By width, not by what is seen: a phone's page shows the wide page's links for a moment while it opens.
    phone = page.viewport_size is not None and page.viewport_size["width"] < NARROW_PX
    if phone:
        menu = page.get_by_test_id("stExpandSidebarButton")
        link = page.get_by_test_id("stSidebarNavLink").filter(has_text=name)
        menu.or_(link).first.wait_for()
        while True:  # a page that is still being laid out may close the menu again
            if menu.is_visible():
                menu.click()
            try:
                link.click(timeout=WAIT_MS / 20)
                break
            except PlaywrightTimeout:
                assert menu.is_visible(), f"the menu is open and {name} cannot be pressed"
        # Streamlit leaves the menu open over the page
        page.evaluate("document.querySelector('[data-testid=stSidebarCollapseButton] button')?.click()")
    else:
        page.get_by_role("link", name=name, exact=True).click()
    still(watched)
