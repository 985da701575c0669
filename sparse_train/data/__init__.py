"""Data sets: each gives a training and a test split that the loop can iterate by epoch."""
