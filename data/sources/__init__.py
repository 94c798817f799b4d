"""Public sources of evidence on a target: what they answer, and which level that is. One module a source, none needed to play."""
