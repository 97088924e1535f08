"""What becomes of checkpoints: recipes trained alike and compared (comparison.py), pages about one (report.py), and
whether one is scored on pictures that it has seen (provenance.py)."""
