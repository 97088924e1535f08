"""What becomes of checkpoints: recipes trained alike and compared (comparison.py), pages about one (report.py)."""
