"""Records as rows, and the results directory."""
