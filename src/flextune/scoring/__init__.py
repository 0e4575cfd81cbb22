"""Scoring: verdicts to pass@1 with its uncertainty, and two runs compared on the same problems. Reads files only."""
