"""The Streamlit web map: land-cover and change maps from a few clicks."""
