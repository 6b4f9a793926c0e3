"""Memory layouts that are multiplied faster on CPUs."""
