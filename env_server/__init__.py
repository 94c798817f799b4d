"""What may happen, and what it costs: environments and the server that holds them. Runs alone, without torch."""
