"""Learning: warm start, GRPO and the evidence that it helped. The only room that needs torch to be imported."""
