"""What the model families of the three backends share."""
