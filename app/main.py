"""The script that Streamlit runs for each tab: navigation and the page that was chosen."""

import streamlit as st
from PIL import Image, ImageDraw

from app.pages import PAGES
from app.pages.login import require_login
from app.pages.tour import tour_bar
from app.store.workspace import current
from app.work.warm_up import warm_up


@st.cache_data
def icon() -> Image.Image:
    """The tab's icon, drawn here: Streamlit fetches its own symbols from a server of somebody else."""
    picture = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((2, 2, 62, 62), 14, fill="#0f766e")
    for row in range(3):
        for column in range(3):
            shade = ("#99f6e4", "#2dd4bf", "#ccfbf1")[(row * 2 + column) % 3]
            pen.rectangle((12 + 14 * column, 12 + 14 * row, 24 + 14 * column, 24 + 14 * row), fill=shade)
    return picture


st.set_page_config(page_title="geodino", page_icon=icon(), layout="wide", initial_sidebar_state="auto")
st.html("<style>.block-container, .stMainBlockContainer { padding: 4.4rem 1.4rem 2rem; max-width: none; }</style>")

require_login()
pages = [
    st.Page(one.show, title=one.title, icon=one.icon, url_path=one.title.lower(), default=one is PAGES[0])
    for one in PAGES
]
page = st.navigation(pages, position="top")
tour_bar()
page.run()
warm_up(current().backbone)
