"""The Layout: placed tiles and, for each, the length of every strip; integers in database units."""
