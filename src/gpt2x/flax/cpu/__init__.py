"""Memory layouts that are read faster on CPUs."""
