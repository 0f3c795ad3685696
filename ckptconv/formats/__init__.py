"""File formats: passports, the registry that picks one, and one room for each family."""
