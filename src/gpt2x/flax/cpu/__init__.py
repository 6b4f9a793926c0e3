"""Matrix products and memory layouts that are fast on CPUs."""
