"""The web page: `python -m colorize_utils serve`.

- visits.py: what a visitor has uploaded and chosen, and every step on it as a plain function; knows nothing of the page
- page.py: the page, built with Gradio, on those functions
- guard.py: the code to enter, and what browsers are told not to load
- server.py: address, QR code and limits; starts and ends it
"""
