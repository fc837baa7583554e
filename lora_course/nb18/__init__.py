"""Notebook 18: eight sick runs, and the number that tells the cause of each; and what questions.md measures."""
