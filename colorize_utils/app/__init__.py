"""The web page: `python -m colorize_utils serve`.

- picture.py: a visitor's picture, and every step on it as a plain function; visits.py: which visitor has which
- page.py: the page, built with Gradio, on those functions
- guard.py: the code to enter, and what browsers are told not to load
- server.py: address, QR code and limits; starts and ends it
"""
