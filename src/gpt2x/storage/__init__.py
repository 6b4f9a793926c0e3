"""Files in folders and on the hub: found, read within a budget, and written whole."""
