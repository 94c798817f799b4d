"""What is known: tables of drugs, interactions and criteria, and their strict readers. Decides nothing."""
