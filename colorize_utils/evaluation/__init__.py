"""How good a checkpoint is.

- comparison.py: recipes trained at the same scale and compared
- report.py: a page about one model
- realism.py: whether paintings can be told from photographs; prints.py: what becomes of colours on old prints
- provenance.py: whether a checkpoint is scored on pictures that it was trained on
"""
