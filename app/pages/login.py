"""Login for servers that several people share: Streamlit's own OpenID Connect, where it has been set up.

A server on this machine alone needs none. A shared one gets it by an ``[auth]`` section in ``.streamlit/secrets.toml``
(see Streamlit's documentation of ``st.login``) and ``pip install Authlib``; nothing is shown before somebody is in.
"""

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError


def required() -> bool:
    """Whether the server was set up to ask who somebody is."""
    try:
        return "auth" in st.secrets
    except (FileNotFoundError, StreamlitSecretNotFoundError):
        return False


def require_login() -> None:
    """Stop the script at a login button where a login is required and nobody is logged in."""
    if required() and not st.user.get("is_logged_in", False):
        st.title("geodino")
        st.button("Log in", type="primary", on_click=st.login, icon=":material/login:")
        st.stop()
