"""Which process this is among others, what it says, and how it is stopped."""
