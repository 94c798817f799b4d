"""What is known about drug targets: twenty genes, eight cancers, how evidence is bought and how it errs."""
