"""Players of an episode, one file each, found by being there."""
