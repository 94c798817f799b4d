"""Players and measures: agents, episodes, metrics, one table on the same patients. Learns nothing."""
