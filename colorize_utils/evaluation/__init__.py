"""How good a checkpoint is.

- comparison.py: recipes trained at the same scale and compared
- report.py: a page about one model
- prints.py: what becomes of colours on old prints
- provenance.py: whether a checkpoint is scored on pictures that it was trained on
"""
