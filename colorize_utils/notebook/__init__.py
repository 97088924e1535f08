"""What only notebooks need: their set-up, the live figure, profiles and widgets.

Nothing is imported here, because bootstrap.py runs before anything is installed.
"""
