"""The papers' comparisons under one protocol: systems, runs, reports; no training loop of its own."""
