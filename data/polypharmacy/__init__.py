"""What is known about drugs in older people: five tables, and the loader that checks every row of them."""
