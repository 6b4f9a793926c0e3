"""Where files are: folders and the hub, found, read within a budget and written whole."""
