"""Effects, predictions and claims, and how sure they are."""
