"""What a method is made of: scores, budget, selection, averages, and the first masks."""
