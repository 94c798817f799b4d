"""One script a benchmark; figures are written with the machine they were taken on."""
