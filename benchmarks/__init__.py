"""How fast the project is, against dense training and against others: `make bench` writes results/performance.md."""
